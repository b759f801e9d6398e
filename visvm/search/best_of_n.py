"""Best of n whole captions: sample them all, score every sentence, keep the best mean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from visvm.records import Candidate, Caption, Policy, Request, Scorer, TraceStep
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    State,
    close_whole,
    first_best,
    open_drafts,
    propose,
    score_states,
    whole_sentences,
)


@dataclass(frozen=True)
class BestOfN:
    """Sample ``samples_per_temperature`` whole captions at each temperature; 5 x 6 = 30 as published.

    The score of a caption is the mean of its sentences' scores, so a long caption is neither
    favoured nor punished for its length.
    """

    name: str = "best_of_n"
    temperatures: tuple[float, ...] = TEMPERATURES
    samples_per_temperature: int = 6
    max_sentences: int | None = None

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        assert scorer is not None, "best_of_n needs a scorer"
        started = time.perf_counter()
        drafts = open_drafts(policy, requests)
        schedule = self.temperatures * self.samples_per_temperature
        proposals = propose(policy, drafts, schedule, whole=True)
        scores = self._score(scorer, drafts, proposals)
        chosen = [_keep_best(*triple) for triple in zip(drafts, proposals, scores, strict=True)]
        return close_whole(
            drafts, chosen, method=self.name, started=started, max_sentences=self.max_sentences
        )

    def _score(
        self, scorer: Scorer, drafts: Sequence[Draft], proposals: Sequence[Sequence[Candidate]]
    ) -> list[list[list[float]]]:
        """The score of each sentence of each candidate of each draft, in one call of the scorer."""
        states = [
            [self._states(draft, candidate) for candidate in candidates]
            for draft, candidates in zip(drafts, proposals, strict=True)
        ]
        values = iter(score_states(scorer, [s for rows in states for row in rows for s in row]))
        return [[[next(values) for _ in row] for row in rows] for rows in states]

    def _states(self, draft: Draft, candidate: Candidate) -> list[State]:
        sentences, is_cut = whole_sentences(candidate, self.max_sentences)
        last = None if is_cut else len(sentences) - 1
        return [State(draft, sentences[:i], text, i == last) for i, text in enumerate(sentences)]


def _keep_best(draft: Draft, candidates: Sequence[Candidate], scores: Sequence[Sequence[float]]) -> Candidate:
    means = [fmean(sentence_scores) for sentence_scores in scores]
    choice = first_best(means)
    draft.trace.append(TraceStep(tuple(candidates), tuple(means), choice))
    draft.values.extend(scores[choice])
    return candidates[choice]
