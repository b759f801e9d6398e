"""Rollouts: a policy's responses to each image, and their rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from actors.batch.rows import FAULT, Row, each, load, table
from visvm.loading import load_policy
from visvm.records import Branch, Candidate, Request
from visvm.reward import ClipScorer
from visvm.schemas import ROLLOUTS
from visvm.search.scheduler import SearchContext, run_searches
from visvm.sentences import split_sentences

ROLLED = REWARDED = pa.schema([*ROLLOUTS, *pa.schema(FAULT)])
"""Rollouts without and with rewards."""


class Generate:
    """UNITS -> ROLLED: one response per temperature; all responses to an image share its prefix."""

    def __init__(self, policy: dict[str, Any], *, temperatures: Sequence[float], seed: int) -> None:
        """Load the policy; ``policy`` are keywords of ``load_policy``."""
        self.policy = load_policy(**policy)
        self.temperatures, self.seed = tuple(temperatures), seed

    def __call__(self, batch: pa.Table) -> pa.Table:
        return table(each(load(batch), self._respond, stage="generate"), ROLLED)

    def _respond(self, rows: list[Row]) -> list[Row]:
        requests = [Request(row["image"], row["prompt"], self.seed) for row in rows]
        responses = run_searches(self.policy, None, requests, self._write)
        return [
            {
                **row,
                "content_hash": row["image"].content_hash,
                "responses": [self._response(candidate) for candidate in candidates],
            }
            for row, candidates in zip(rows, responses, strict=True)
        ]

    async def _write(self, context: SearchContext, branch: Branch) -> list[Candidate]:
        (candidates,) = await context.propose([branch], self.temperatures, whole=True)
        return candidates

    def _response(self, candidate: Candidate) -> Row:
        return {
            "temperature": candidate.temperature,
            "seed": self.seed,
            "text": candidate.text,
            "sentences": split_sentences(candidate.text),
            "num_tokens": len(candidate.token_ids),
            "finish_reason": candidate.finish_reason,
        }


class Reward:
    """ROLLED -> REWARDED: the similarity of every sentence with its image."""

    def __init__(self, reward: dict[str, Any]) -> None:
        """Load the reward model; ``reward`` are keywords of ``ClipScorer.from_pretrained``."""
        self.scorer = ClipScorer.from_pretrained(**reward)

    def __call__(self, batch: pa.Table) -> pa.Table:
        assert batch.schema.equals(ROLLED), batch.schema
        return table(each(load(batch), self._score, stage="reward"), REWARDED)

    def _score(self, rows: list[Row]) -> list[Row]:
        self.scorer.clear()
        for row in rows:
            if row["image"].content_hash != row["content_hash"]:
                raise ValueError(f"{row['uri']} changed while its responses were being written")
        sentences = [[s for response in row["responses"] for s in response["sentences"]] for row in rows]
        scores = self.scorer.similarities([row["image"] for row in rows], sentences)
        return [_rewarded(row, values) for row, values in zip(rows, scores, strict=True)]


class RewardOfOthers(Reward):
    """ROLLED -> REWARDED for responses that another generator wrote: no sentences and no content hash yet."""

    def _score(self, rows: list[Row]) -> list[Row]:
        return super()._score([_split(row) for row in rows])


def _split(row: Row) -> Row:
    responses = [{**one, "sentences": split_sentences(one["text"])} for one in row["responses"]]
    return {**row, "content_hash": row["image"].content_hash, "responses": responses}


def _rewarded(row: Row, values: Sequence[float]) -> Row:
    rewards = iter(values)
    responses = [
        {**response, "rewards": [next(rewards) for _ in response["sentences"]]}
        for response in row["responses"]
    ]
    return {**row, "responses": responses}
