"""Choose and clean the searched captions that a policy learns from.

A policy copies what its captions do: one that repeats sentences in a few captions repeats them in most after
some rounds, and captions that leave objects out teach it to say less.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from visvm.metrics.chair import mentions
from visvm.metrics.repetition import words

Row = Mapping[str, Any]


def without_repeats(sentences: Sequence[str]) -> list[str]:
    """Return the sentences without those that repeat the words of an earlier one."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for sentence in sentences:
        key = tuple(words(sentence))
        if not key or key not in seen:
            kept.append(sentence)
        seen.add(key)
    return kept


def coverage(row: Row) -> float:
    """Return the share of the objects named by any candidate of a caption's search that the caption names.

    Objects are COCO's categories, and nothing is known of which are true. 1 where no candidate names any.
    """
    candidates = [one["text"] for step in row.get("trace") or () for one in step["candidates"]]
    known = {one.category for text in dict.fromkeys(candidates) for one in mentions(text)}
    own = {one.category for one in mentions(row["caption"])}
    return len(own & known) / len(known) if known else 1.0


def cleaned(row: Row, *, drop_repeated: bool = True) -> dict[str, Any]:
    """Return the row of a caption, ``drop_repeated``: without the sentences that repeat an earlier one."""
    sentences = list(row.get("sentences") or ())
    kept = without_repeats(sentences) if drop_repeated else sentences
    if len(kept) == len(sentences):
        return dict(row)
    return {**row, "caption": "".join(kept), "sentences": kept}


def mixed(rows: Sequence[Row], base: Sequence[Row], share: float) -> list[Row]:
    """Return ``rows``, of which a ``share`` of the images have their captions of ``base`` instead.

    Which images these are depends on their ids alone, so a larger share adds to a smaller one.
    """
    replaced = {row["image_id"] for row in base if draw(row["image_id"]) < share}
    own = [row for row in rows if row["image_id"] not in replaced]
    there = {row["image_id"] for row in rows}
    return own + [row for row in base if row["image_id"] in replaced & there]


def draw(text: str) -> float:
    """Return a number in [0, 1) that depends on ``text`` alone."""
    return int.from_bytes(hashlib.sha256(str(text).encode()).digest()[:6]) / 2**48
