"""Counters of what actors have done, which Ray exports to Prometheus.

`rate(ray_visvm_images_total[1m])` is images per second, by the tag `stage`. The ratio of
`ray_visvm_prefix_hits_total` to hits plus misses is how often an image was already encoded.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter

NAMES = {
    "images": "(image, prompt) pairs that a stage has finished",
    "tokens": "tokens of the policy: kept (responses) or sampled (captions)",
    "rewards": "sentences that got a reward",
    "errors": "images that a stage could not use",
    "prefix_hits": "look-ups of an image in the value model's store that found it",
    "prefix_misses": "look-ups that had to encode the image",
}


@runtime_checkable
class CachingActor(Protocol):
    """An actor whose scorer keeps encoded images."""

    @property
    def cache_lookups(self) -> tuple[int, int]:
        """Return the look-ups of images so far: hits and misses."""
        ...


class StageMetrics:
    """The counters of one stage, in one process."""

    def __init__(self, stage: str) -> None:
        self._counters = {
            name: Counter(f"visvm_{name}", description=what, tag_keys=("stage",))
            for name, what in NAMES.items()
        }
        self._tags = {"stage": stage}
        self._seen = dict.fromkeys(("prefix_hits", "prefix_misses"), 0)

    def add(self, before: pa.Table, after: pa.Table, actor: object) -> None:
        """Count what ``actor`` did with a batch."""
        for name, num in {**counts(before, after), **self._prefixes(actor)}.items():
            if num:
                self._counters[name].inc(num, tags=self._tags)

    def _prefixes(self, actor: object) -> dict[str, int]:
        """Return the look-ups since the last batch."""
        hits, misses = actor.cache_lookups if isinstance(actor, CachingActor) else (0, 0)
        now = {"prefix_hits": hits, "prefix_misses": misses}
        new = {name: now[name] - self._seen[name] for name in now}
        self._seen = now
        return new


def counts(before: pa.Table, after: pa.Table) -> dict[str, int]:
    """Return the images, tokens, rewards and errors that a stage added to a batch."""
    was_failed, is_failed = (pc.sum(pc.is_valid(batch["error"])).as_py() or 0 for batch in (before, after))
    found = {"images": after.num_rows - is_failed, "errors": is_failed - was_failed}
    if "num_generated_tokens" in after.column_names:
        return {**found, "tokens": pc.sum(after["num_generated_tokens"]).as_py() or 0}
    if "responses" not in after.column_names:
        return found
    if "responses" not in before.column_names:
        return {**found, "tokens": pc.sum(_of_responses(after, "num_tokens")).as_py() or 0}
    return {**found, "rewards": pc.sum(pc.list_value_length(_of_responses(after, "rewards"))).as_py() or 0}


def _of_responses(batch: pa.Table, field: str) -> pa.ChunkedArray:
    return pc.struct_field(pc.list_flatten(batch["responses"]), field)
