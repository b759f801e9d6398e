"""Evaluate and compare the captions of several methods: CHAIR, recall and length, with intervals."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from visvm.metrics import bootstrap
from visvm.metrics.chair import Chair, Variant, chair
from visvm.metrics.coco import Truth, image_key
from visvm.metrics.length import num_sentences, num_words

Row = Mapping[str, Any]

# What is counted per caption, and the metrics: ratios (numerator, denominator) of sums over captions.
COUNTS = ("captions", "hallucinating", "mentions", "hallucinated", "truth", "recalled", "sentences", "words")
RATIOS = {
    "chair_s": ("hallucinating", "captions"),
    "chair_i": ("hallucinated", "mentions"),
    "recall": ("recalled", "truth"),
    "num_sentences": ("sentences", "captions"),
    "num_words": ("words", "captions"),
}
PAIRED = ("chair_s", "chair_i", "recall", "num_words")
COSTS = {
    "num_generated_tokens": "num_generated_tokens",
    "num_value_calls": "num_value_calls",
    "seconds_per_caption": "seconds",
}
_NUMERATORS, _DENOMINATORS = ([COUNTS.index(pair[side]) for pair in RATIOS.values()] for side in (0, 1))


@dataclass(frozen=True)
class Resampling:
    """Settings of the 95 % percentile bootstrap over images."""

    num_resamples: int = 2000
    seed: int = 0


def evaluate(
    captions: Mapping[str, Sequence[Row]],
    truth: Truth,
    *,
    variant: Variant = "original",
    resampling: Resampling = Resampling(),
) -> dict[str, Any]:
    """Return the metrics of each method's captions (``rows``) and their differences "a - b" (``paired``).

    ``captions`` maps a method to rows with image_id and caption and, where known, prompt, finish_reason
    and the columns of cost. CHAIRs = captions with a hallucinated object / captions; CHAIRi = hallucinated
    mentions / mentions, 0 if nothing is mentioned; recall = true objects named / true objects, both summed
    over captions. All three are fractions in [0, 1]. An unfinished last sentence counts like any other.
    Captions of the same image are resampled together. With a single method, the result also has its
    metrics at the top level, and the objects of every caption under ``sentences``.
    """
    judged = {
        method: [chair(row["caption"], truth[image_key(row["image_id"])], variant=variant) for row in rows]
        for method, rows in captions.items()
    }
    counts = {method: _counts(rows, judged[method]) for method, rows in captions.items()}
    rows = [_row(method, captions[method], counts[method], resampling) for method in captions]
    paired = [
        difference
        for b, a in itertools.combinations(captions, 2)
        for difference in _paired((a, counts[a]), (b, counts[b]), resampling)
    ]
    result = {"variant": variant, **_conditions(captions, resampling), "rows": rows, "paired": paired}
    if len(rows) > 1:
        return result
    figures = {name: rows[0][name] for name in ("chair_s", "chair_i", "recall")}
    (method,) = captions
    return figures | result | {"sentences": _objects(captions[method], judged[method])}


def _counts(rows: Sequence[Row], judged: Sequence[Chair]) -> dict[str, bootstrap.Array]:
    """Sum COUNTS over the captions of each image."""
    counts: dict[str, bootstrap.Array] = {}
    for row, one in zip(rows, judged, strict=True):
        numbers = (
            1,
            bool(one.hallucinated),
            len(one.objects),
            len(one.hallucinated),
            len(one.truth),
            len(one.recalled),
            num_sentences(row["caption"]),
            num_words(row["caption"]),
        )
        key = image_key(row["image_id"])
        counts[key] = counts.get(key, np.zeros(len(COUNTS))) + numbers
    return counts


def _row(
    method: str, rows: Sequence[Row], counts: dict[str, bootstrap.Array], resampling: Resampling
) -> dict[str, Any]:
    stacked = np.stack([counts[key] for key in sorted(counts)])
    means = bootstrap.ratios(stacked.sum(axis=0), _NUMERATORS, _DENOMINATORS)
    intervals = bootstrap.interval(_resampled_ratios(stacked, resampling))
    row: dict[str, Any] = {"method": method, "num_images": len(counts), "num_captions": len(rows)}
    for name, mean, interval in zip(RATIOS, means, intervals, strict=True):
        row |= {name: float(mean), f"{name}_ci": interval}
    row |= {name: _mean([one.get(key) for one in rows]) for name, key in COSTS.items()}
    reasons = [one.get("finish_reason") for one in rows]
    return row | {"num_unfinished": None if None in reasons else reasons.count("length")}


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if len(known) == len(numbers) else None


def _paired(
    a: tuple[str, dict[str, bootstrap.Array]],
    b: tuple[str, dict[str, bootstrap.Array]],
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Return the differences a - b over the images that both methods have."""
    images = sorted(a[1].keys() & b[1].keys())
    if not images:
        return []
    stacked = [np.stack([counts[key] for key in images]) for counts in (a[1], b[1])]
    totals = [bootstrap.ratios(counts.sum(axis=0), _NUMERATORS, _DENOMINATORS) for counts in stacked]
    samples = [_resampled_ratios(counts, resampling) for counts in stacked]
    intervals = bootstrap.interval(samples[0] - samples[1])
    differences = dict(zip(RATIOS, zip(totals[0] - totals[1], intervals, strict=True), strict=True))
    return [
        {"a": a[0], "b": b[0], "metric": name, "difference": float(difference), "ci": interval}
        for name, (difference, interval) in differences.items()
        if name in PAIRED
    ]


def _resampled_ratios(counts: bootstrap.Array, resampling: Resampling) -> bootstrap.Array:
    totals = bootstrap.resample(counts, num_resamples=resampling.num_resamples, seed=resampling.seed)
    return bootstrap.ratios(totals, _NUMERATORS, _DENOMINATORS)


def _conditions(captions: Mapping[str, Sequence[Row]], resampling: Resampling) -> dict[str, Any]:
    """Return the conditions to quote with every figure."""
    rows = list(itertools.chain.from_iterable(captions.values()))
    keys = sorted({image_key(row["image_id"]) for row in rows})
    return {
        "prompts": sorted({row["prompt"] for row in rows if row.get("prompt")}),
        "image_ids_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
        "unfinished_last_sentence": "counted",
        "num_resamples": resampling.num_resamples,
        "resampling_seed": resampling.seed,
    }


def _objects(rows: Sequence[Row], judged: Sequence[Chair]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": row["image_id"],
            "objects": list(one.objects),
            "hallucinated": list(one.hallucinated),
        }
        for row, one in zip(rows, judged, strict=True)
    ]
