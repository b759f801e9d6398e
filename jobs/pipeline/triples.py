"""From rollouts to triples (sentence, next sentence, reward), and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jobs.runner.part_files import read_rows
from visvm import storage
from visvm.schemas import TRIPLES


def write_triples(out: str) -> None:
    """Explode OUT/rollouts into OUT/triples, file by file."""
    written = set(storage.names(f"{out}/triples", "*.parquet"))
    for name in storage.names(f"{out}/rollouts", "*.parquet"):
        if name not in written:
            rollouts = storage.read_table(f"{out}/rollouts/{name}").to_pylist()
            rows = [row for rollout in rollouts for row in triples(rollout)]
            storage.write_table(f"{out}/triples/{name}", pa.Table.from_pylist(rows, schema=TRIPLES))


def triples(rollout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of TRIPLES of one row of ROLLOUTS; a response's last sentence has no next one."""
    shared = {key: rollout[key] for key in ("image_id", "uri", "prompt")}
    for index, response in enumerate(rollout["responses"]):
        following = (*response["sentences"], None)[1:]
        steps = zip(response["sentences"], following, response["rewards"], strict=True)
        for step, (sentence, next_sentence, reward) in enumerate(steps):
            yield {
                **shared,
                "response": index,
                "step": step,
                "sentence": sentence,
                "next_sentence": next_sentence,
                "reward": reward,
            }


def summary(out: str) -> dict[str, Any]:
    """Return the counts of a finished run folder; a triple is a sentence with its successor or the end."""
    images: set[str] = set()
    num_rollouts = num_tokens = 0
    reasons: Counter[str] = Counter()
    num_rewards, total, squares = 0, 0.0, 0.0
    for rollout in read_rows(f"{out}/rollouts"):
        images.add(rollout["image_id"])
        num_rollouts += 1
        for response in rollout["responses"]:
            reasons[response["finish_reason"]] += 1
            num_tokens += response["num_tokens"] or 0  # not known of imported ones
            num_rewards += len(response["rewards"])
            total += sum(response["rewards"])
            squares += sum(reward**2 for reward in response["rewards"])
    mean = total / num_rewards if num_rewards else None
    return {
        "num_images": len(images),
        "num_rollouts": num_rollouts,
        "num_responses": reasons.total(),
        "num_sentences": num_rewards,
        "num_triples": num_rewards,
        "num_errors": sum(1 for _ in read_rows(f"{out}/errors")),
        "num_tokens": num_tokens,
        "finish_reasons": dict(reasons),
        "reward_mean": mean,
        "reward_std": None if mean is None else max(0.0, squares / num_rewards - mean**2) ** 0.5,
    }
