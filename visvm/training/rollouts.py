"""Rollouts as training data: one item per image, in batches that do not depend on the number of workers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from visvm import images
from visvm.engine.tree_packing import Packed
from visvm.families import Family, Inputs
from visvm.records import DecodedImage
from visvm.training.td import Pairs, Response, num_pairs
from visvm.training.text_packing import Packer, collate

logger = logging.getLogger(__name__)

BATCHES_PER_SORT = 16
BLANK = DecodedImage("", "", "", Image.new("RGB", (32, 32)))


@dataclass(frozen=True)
class Rollout:
    """An image and all its responses."""

    image_id: str
    uri: str
    content_hash: str
    responses: tuple[Response, ...]

    @property
    def num_pairs(self) -> int:
        """The number of sentences with a TD target."""
        return sum(map(num_pairs, self.responses))

    @property
    def size(self) -> int:
        """Characters of its distinct sentences, which estimate the length of its pack."""
        return sum(map(len, {text for one in self.responses for text in one.sentences}))


def from_rows(rows: Iterable[dict[str, Any]]) -> list[Rollout]:
    """Return one Rollout per image, sorted by image id, from rows of ``schemas.ROLLOUTS`` in any order.

    Raises:
        ValueError: a response lacks a finite reward per sentence, or one id stands for two images.
    """
    rollouts: dict[str, Rollout] = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        new = Rollout(row["image_id"], row["uri"], row["content_hash"], responses_of(row))
        old = rollouts.get(new.image_id)
        if old and old.content_hash != new.content_hash:
            raise ValueError(f"image id {new.image_id!r} stands for two images: {old.uri} and {new.uri}")
        both = (*(old.responses if old else ()), *new.responses)
        rollouts[new.image_id] = Rollout(new.image_id, new.uri, new.content_hash, both)
    kept = [one for one in rollouts.values() if one.num_pairs]
    return sorted(kept, key=lambda one: one.image_id)


def responses_of(row: dict[str, Any]) -> tuple[Response, ...]:
    """Return the responses with sentences of a row of ``schemas.ROLLOUTS``; errors as ``from_rows``."""
    responses = []
    for one in row["responses"]:
        sentences, rewards = one["sentences"], one["rewards"]
        if len(sentences) != len(rewards) or not np.isfinite(np.array(rewards, dtype=float)).all():
            raise ValueError(
                f"rollout {row['id']!r}: {len(sentences)} sentences need finite rewards, got {rewards}"
            )
        if not all(text.strip() for text in sentences):
            raise ValueError(f"rollout {row['id']!r} has an empty sentence")
        if sentences:
            responses.append(Response(tuple(sentences), tuple(rewards), one["finish_reason"] == "stop"))
    return tuple(responses)


def reward_statistics(rollouts: Sequence[Rollout]) -> tuple[float, float]:
    """Return mean and standard deviation of the rewards of all sentences.

    The deviation is 1 if all rewards are equal up to rounding, so that it can be divided by.

    Raises:
        ValueError: there are no sentences.
    """
    rewards = [r for one in rollouts for response in one.responses for r in response.rewards]
    if not rewards:
        raise ValueError(
            "the rollouts hold no whole sentence, so nothing can be learned: all captions are empty or"
            " were cut by max_new_tokens within their first sentence"
        )
    mean, deviation = float(np.mean(rewards)), float(np.std(rewards))
    return mean, deviation if deviation > 1e-6 * abs(mean) else 1.0


def plan_batches(sizes: Sequence[int], *, batch_size: int, seed: int | None = None) -> list[list[int]]:
    """Return batches of indices of items of similar size: shuffled by ``seed``, or else in order of size."""
    order = np.arange(len(sizes)) if seed is None else np.random.default_rng(seed).permutation(len(sizes))
    group = len(order) + 1 if seed is None else batch_size * BATCHES_PER_SORT
    batches: list[list[int]] = []
    for start in range(0, len(order), group):
        part = sorted(order[start : start + group].tolist(), key=lambda i: (sizes[i], i))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    if seed is not None:
        np.random.default_rng([seed, 1]).shuffle(batches)
    return batches


def worker_share(
    batch: Sequence[int], *, rank: int, num_workers: int, micro_batch_size: int
) -> list[list[int | None]]:
    """Return the micro-batches of one worker; None pads them, so that every worker has equally many."""
    num_each = -(-len(batch) // num_workers)
    own: list[int | None] = list(batch[rank::num_workers])
    own += [None] * (num_each - len(own))
    return [own[i : i + micro_batch_size] for i in range(0, num_each, micro_batch_size)]


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The inputs of one forward pass: preprocessed images, packed text, and the TD pairs."""

    inputs: list[Inputs]
    packed: Packed
    pairs: Pairs


class Loader:
    """Reads, preprocesses and packs items, caching up to ``cache_mb`` MiB of pixels for later epochs.

    An image that can no longer be read, or has changed, is recorded in ``failed`` and left out.
    """

    def __init__(self, rollouts: Sequence[Rollout], family: Family, packer: Packer, *, cache_mb: int) -> None:
        self.rollouts, self.family, self.packer = rollouts, family, packer
        self.room = cache_mb * 2**20
        self.failed: dict[str, str] = {}
        self._pixels: dict[int, Inputs] = {}
        self._blank = family.preprocess([BLANK])[0]

    def load(self, items: Sequence[int | None]) -> MicroBatch:
        """Return the items as one micro-batch; None stands for a blank image without pairs."""
        inputs = [self._read(item) for item in items]
        packs = [
            self.packer.pack(self.rollouts[item].responses if item is not None and pixels else ())
            for item, pixels in zip(items, inputs, strict=True)
        ]
        return MicroBatch([pixels or self._blank for pixels in inputs], *collate(packs))

    def _read(self, item: int | None) -> Inputs | None:
        if item is None:
            return None
        if item not in self._pixels:
            inputs = self._preprocess(self.rollouts[item])
            size = sum(tensor.nbytes for tensor in inputs.values()) if inputs else 0
            if inputs is None or size > self.room:
                return inputs
            self.room -= size
            self._pixels[item] = inputs
        return self._pixels[item]

    def _preprocess(self, rollout: Rollout) -> Inputs | None:
        try:
            image = images.load(rollout.uri, id=rollout.image_id)
            if image.content_hash != rollout.content_hash:
                raise ValueError(f"{rollout.uri} has changed since the rollouts were made")
        except ValueError as error:
            if rollout.image_id not in self.failed:
                logger.warning("left out: %s", error)
            self.failed[rollout.image_id] = str(error)
            return None
        return self.family.preprocess([image])[0]
