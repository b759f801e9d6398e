"""Evaluate and compare the captions of several methods: CHAIR, recall and length, with intervals."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.calibration import risk_curve
from visvm.metrics.chair import Chair, Variant, chair
from visvm.metrics.coco import Truth, image_key
from visvm.metrics.counts import METRICS, count
from visvm.metrics.length_control import at_equal_length, linearised
from visvm.metrics.ratio_metrics import ImageCounts, stack

Row = Mapping[str, Any]

PAIRED = (
    *("chair_s", "chair_i", "chair_i_distinct", "recall", "precision", "f1", "repetition", "distinct_2"),
    "num_words",
)
COSTS = {
    "num_generated_tokens": "num_generated_tokens",
    "num_value_calls": "num_value_calls",
    "seconds_per_caption": "seconds",
}


def evaluate(
    captions: Mapping[str, Sequence[Row]],
    truth: Truth,
    *,
    variant: Variant = "original",
    resampling: Resampling = DEFAULT,
) -> dict[str, Any]:
    """Return the metrics of each method's captions (``rows``) and their differences "a - b" (``paired``).

    ``captions`` maps a method to rows with image_id and caption and, where known, prompt, finish_reason
    and the columns of cost. CHAIRs = captions with a hallucinated object / captions; CHAIRi = hallucinated
    mentions / mentions, 0 if nothing is mentioned; recall = true objects named / true objects, both summed
    over captions. An unfinished last sentence counts like any other. Captions of the same image are
    resampled together. With a single method, the result also has its metrics at the top level, and the
    objects of every caption under ``sentences``.

    Repeating true sentences lowers CHAIRi, and saying less lowers CHAIRs. So each caption's distinct objects
    are judged too (chair_i_distinct, precision, f1), with the share of repeated sentences (repetition) and of
    distinct n-grams (distinct_1 to 3); ``paired`` has the differences at equal length besides; ``common``
    has the metrics on the images that all methods have, where their images differ; ``calibration`` has the
    risk curves of methods whose sentences have values. All are fractions in [0, 1] with ``_ci`` beside them.
    """
    judged = {
        method: [chair(row["caption"], truth[image_key(row["image_id"])], variant=variant) for row in rows]
        for method, rows in captions.items()
    }
    counts = {method: count(rows, judged[method]) for method, rows in captions.items()}
    rows = [_row(method, captions[method], counts[method], resampling) for method in captions]
    paired = [
        difference
        for b, a in itertools.combinations(captions, 2)
        for difference in _paired((a, counts[a]), (b, counts[b]), resampling)
    ]
    result = {"variant": variant, **_conditions(captions, resampling), "rows": rows, "paired": paired}
    result |= _common(counts, resampling) | _calibration(captions, truth, variant, resampling)
    if len(rows) > 1:
        return result
    figures = {name: rows[0][name] for name in ("chair_s", "chair_i", "recall")}
    (method,) = captions
    return figures | result | {"sentences": _objects(captions[method], judged[method])}


def _row(method: str, rows: Sequence[Row], counts: ImageCounts, resampling: Resampling) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "num_images": len(counts), "num_captions": len(rows)}
    row |= METRICS.evaluate(counts, resampling)
    row |= {name: _mean([one.get(key) for one in rows]) for name, key in COSTS.items()}
    row |= _means_and_totals(rows, METRICS.totals(counts))
    reasons = [one.get("finish_reason") for one in rows]
    return row | {"num_unfinished": None if None in reasons else reasons.count("length")}


def _means_and_totals(rows: Sequence[Row], totals: Mapping[str, float]) -> dict[str, float | None]:
    """Return sizes and costs under names that say what they are, per caption and in all."""
    sums: dict[str, float | None] = {"num_sentences": totals["sentences"], "num_words": totals["words"]}
    for key in COSTS.values():
        mean = _mean([one.get(key) for one in rows])
        sums[key] = None if mean is None else mean * len(rows)
    named: dict[str, float | None] = {}
    for key, total in sums.items():
        named |= {f"mean_{key}": None if total is None else total / len(rows), f"total_{key}": total}
    return named


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if len(known) == len(numbers) else None


def _paired(
    a: tuple[str, ImageCounts], b: tuple[str, ImageCounts], resampling: Resampling
) -> list[dict[str, Any]]:
    """Return the differences a - b over the images of both methods, as observed and at equal length."""
    differences = METRICS.differences(a[1], b[1], resampling)
    controlled = _at_equal_length(a[1], b[1], resampling) if differences else {}
    return [
        {"a": a[0], "b": b[0], "metric": name, **difference}
        | ({"at_equal_length": controlled[name]} if name in controlled else {})
        for name, difference in differences.items()
        if name in PAIRED
    ]


def _at_equal_length(a: ImageCounts, b: ImageCounts, resampling: Resampling) -> dict[str, Any]:
    """Return the differences of metrics at equal caption length, by name."""
    shared = sorted(a.keys() & b.keys())
    sides = [stack({key: one[key] for key in shared}) for one in (a, b)]
    names = [name for name in PAIRED if name != "num_words"]
    values = [linearised(side, *METRICS.sides(names)) for side in sides]
    words, captions = METRICS.counts.index("words"), METRICS.counts.index("captions")
    lengths = [side[:, words] / side[:, captions] for side in sides]
    found = at_equal_length(values[0] - values[1], lengths[0] - lengths[1], resampling)
    return dict(zip(names, found, strict=True))


def _common(counts: Mapping[str, ImageCounts], resampling: Resampling) -> dict[str, Any]:
    """Return every method's metrics on the images that all methods have, where their images differ."""
    sets = [set(one) for one in counts.values()]
    shared = sorted(set.intersection(*sets))
    if all(len(one) == len(shared) for one in sets):
        return {}
    rows = [
        {"method": method, "num_images": len(shared)}
        | METRICS.evaluate({key: one[key] for key in shared}, resampling)
        for method, one in counts.items()
        if shared
    ]
    return {"common": {"num_images": len(shared), "image_ids_sha256": _digest(shared), "rows": rows}}


def _calibration(
    captions: Mapping[str, Sequence[Row]], truth: Truth, variant: Variant, resampling: Resampling
) -> dict[str, Any]:
    """Return the risk curves of the methods whose captions have values for their sentences."""
    curves = {
        name: risk_curve(rows, truth, variant=variant, resampling=resampling)
        for name, rows in captions.items()
    }
    return {"calibration": {name: curve for name, curve in curves.items() if curve}}


def _conditions(captions: Mapping[str, Sequence[Row]], resampling: Resampling) -> dict[str, Any]:
    """Return the conditions to quote with every figure."""
    rows = list(itertools.chain.from_iterable(captions.values()))
    keys = sorted({image_key(row["image_id"]) for row in rows})
    return {
        "prompts": sorted({row["prompt"] for row in rows if row.get("prompt")}),
        "image_ids_sha256": _digest(keys),
        "unfinished_last_sentence": "counted",
        "num_resamples": resampling.num_resamples,
        "resampling_seed": resampling.seed,
    }


def _digest(keys: Sequence[str]) -> str:
    """Return the hash of a list of images: figures on other images are not comparable."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def _objects(rows: Sequence[Row], judged: Sequence[Chair]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": row["image_id"],
            "objects": list(one.objects),
            "hallucinated": list(one.hallucinated),
        }
        for row, one in zip(rows, judged, strict=True)
    ]
