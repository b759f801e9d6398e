"""Check whether the values of sentences say how far to trust them: risk and coverage against a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from visvm.metrics import bootstrap
from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.chair import Variant, mentions
from visvm.metrics.coco import Truth, image_key

Row = Mapping[str, Any]


def risk_curve(
    rows: Sequence[Row],
    truth: Truth,
    *,
    variant: Variant = "original",
    num_thresholds: int = 10,
    resampling: Resampling = DEFAULT,
) -> list[dict[str, Any]]:
    """Return risk and coverage at thresholds tau on the values of the sentences of captions.

    ``rows`` have image_id, sentences and values (those without values are left out). At each tau, a
    quantile of the values, ``coverage`` is the share of sentences of value >= tau, and ``risk`` the share
    of these that name an object which is not in the image; both with ``_ci`` over images. Values that
    rank sentences well have a risk that falls as tau rises. Empty if no sentence has a value.
    """
    points = [point for row in rows for point in _points(row, truth, variant)]
    if not points:
        return []
    keys, values, wrong = (np.array(column) for column in zip(*points, strict=True))
    images, index = np.unique(keys, return_inverse=True)
    curve = []
    for tau in np.unique(np.quantile(values, np.linspace(0, 1, num_thresholds, endpoint=False))):
        kept = values >= tau
        counts = np.zeros((len(images), 3))
        np.add.at(counts, index, np.column_stack([np.ones(len(kept)), kept, kept & wrong]))
        totals = bootstrap.resample(counts, num_resamples=resampling.num_resamples, seed=resampling.seed)
        risk, coverage = bootstrap.ratios(counts.sum(axis=0), [2, 1], [1, 0])
        risk_ci, coverage_ci = bootstrap.interval(bootstrap.ratios(totals, [2, 1], [1, 0]))
        curve.append(
            {"tau": float(tau), "risk": float(risk), "risk_ci": risk_ci}
            | {"coverage": float(coverage), "coverage_ci": coverage_ci}
        )
    return curve


def _points(row: Row, truth: Truth, variant: Variant) -> list[tuple[str, float, bool]]:
    """Return (image, value, whether a hallucinated object is named) for each sentence with a value."""
    key = image_key(row["image_id"])
    pairs = zip(row.get("sentences") or (), row.get("values") or (), strict=False)
    return [
        (key, value, any(one.category not in truth[key] for one in mentions(sentence, variant=variant)))
        for sentence, value in pairs
        if value is not None
    ]
