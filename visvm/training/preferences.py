"""Preferences from search traces: of a step's candidates one was chosen, and the others were not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visvm.metrics.repetition import words

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two continuations of the same ``prefix`` (the sentences before); an ``ended`` one ends its caption.

    Values are those that the search gave, or None where whole captions of two runs are compared.
    """

    step: int
    prefix: str
    chosen: str
    rejected: str
    chosen_ended: bool
    rejected_ended: bool
    chosen_value: float | None = None
    rejected_value: float | None = None

    @property
    def margin(self) -> float:
        """Return how much more the chosen one is worth."""
        return (self.chosen_value or 0.0) - (self.rejected_value or 0.0)


@dataclass(frozen=True)
class PairOptions:
    """Which pairs are kept.

    ``margin``: least difference of values. ``distinct``: least share of differing words, 1 minus the Jaccard
    index of their sets. ``max_ratio``: most words of one for each of the other. ``same_end``: both sides end
    their caption, or neither. ``most``: pairs of a caption, by margin.
    """

    margin: float = 0.0
    distinct: float = 0.0
    max_ratio: float = float("inf")
    same_end: bool = False
    most: int | None = None

    def keeps(self, pair: Pair) -> bool:
        """Return whether a pair is different enough, and not merely longer or shorter."""
        chosen, rejected = words(pair.chosen), words(pair.rejected)
        if not chosen or not rejected or chosen == rejected:
            return False
        if self.same_end and pair.chosen_ended != pair.rejected_ended:
            return False
        ratio = max(len(chosen), len(rejected)) / min(len(chosen), len(rejected))
        return ratio <= self.max_ratio and distinctness(chosen, rejected) >= self.distinct


def distinctness(a: Sequence[str], b: Sequence[str]) -> float:
    """Return 1 minus the Jaccard index of two lists of words: 0 for the same words, 1 for none in common."""
    union = set(a) | set(b)
    return 1 - len(set(a) & set(b)) / len(union) if union else 0.0


def step_pairs(row: Row, options: PairOptions) -> list[Pair]:
    """Return a pair of each step of a caption's trace where there is one, in their order.

    The rejected continuation is the one of least value that ``options`` keep. Continuations that the limit
    of tokens cut are left out.
    """
    pairs = [pair for pairs in _pairs_by_step(row, options) for pair in pairs[:1]]
    best = sorted(pairs, key=lambda pair: -pair.margin)[: options.most]
    return sorted(best, key=lambda pair: pair.step)


def _pairs_by_step(row: Row, options: PairOptions) -> Iterator[list[Pair]]:
    """Yield the pairs of each step that are kept, by rising value of the rejected one."""
    prefix = ""
    for number, step in enumerate(row.get("trace") or ()):
        candidates = step["candidates"]
        chosen = candidates[step["choice"]]
        others = sorted((one for one in candidates if one is not chosen), key=lambda one: one["value"])
        made = [
            _pair(number, prefix, chosen, one)
            for one in (others if _is_whole(chosen) else ())
            if _is_whole(one) and chosen["value"] > one["value"]
        ]
        yield [pair for pair in made if pair.margin >= options.margin and options.keeps(pair)]
        prefix += chosen["text"]


def _is_whole(candidate: Row) -> bool:
    return candidate["finish_reason"] != "length"


def _pair(step: int, prefix: str, chosen: Row, rejected: Row) -> Pair:
    return Pair(
        step,
        prefix,
        chosen["text"],
        rejected["text"],
        chosen_ended=chosen["finish_reason"] == "stop",
        rejected_ended=rejected["finish_reason"] == "stop",
        chosen_value=chosen["value"],
        rejected_value=rejected["value"],
    )


def caption_pairs(row: Row, rejected: Sequence[Row], options: PairOptions) -> list[Pair]:
    """Return pairs of a caption with others of its image and prompt, whole captions on both sides."""
    pairs = [
        Pair(0, "", row["caption"], one["caption"], _has_ended(row), _has_ended(one))
        for one in rejected
        if one["prompt"] == row["prompt"]
    ]
    return [pair for pair in pairs if options.keeps(pair)][: options.most]


def _has_ended(row: Row) -> bool:
    return row.get("finish_reason") in (None, "stop")
