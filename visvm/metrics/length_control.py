"""Compare two methods at equal caption length: a paired regression of metrics on the number of words.

A shorter caption names fewer objects, so it lowers CHAIR and recall without seeing any better. For each
image, the difference of a metric is regressed on the difference in words; the intercept is the difference
between captions of equal length.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from visvm.metrics import bootstrap
from visvm.metrics.bootstrap import Array, Resampling


def linearised(counts: Array, numerators: list[int], denominators: list[int]) -> Array:
    """Return each image's part of the ratios of sums [images, metrics]; their mean over images is the ratio.

    The part of image i is R + (n_i - R d_i) / mean(d): the first-order expansion of R = sum(n) / sum(d).
    """
    ratios = bootstrap.ratios(counts.sum(axis=0), numerators, denominators)
    above, below = counts[:, numerators], counts[:, denominators]
    mean = below.mean(axis=0)
    residuals = above - ratios * below
    return ratios + np.divide(residuals, mean, out=np.zeros_like(residuals), where=mean > 0)


def at_equal_length(differences: Array, num_words: Array, resampling: Resampling) -> list[dict[str, Any]]:
    """Regress paired differences [images, metrics] on the differences in words [images].

    Returns, for each metric: ``difference`` at equal length with its ``ci``, the slope ``per_word``, and
    ``extrapolated``: whether no image has captions of which the first is longer and none of which the
    second is, so that equal length lies outside what was observed.
    """
    x = num_words[:, None]
    moments = np.hstack([np.ones_like(x), x, x**2, differences, x * differences])
    intercepts, slopes = _fit(moments.sum(axis=0)[None])
    totals = bootstrap.resample(moments, num_resamples=resampling.num_resamples, seed=resampling.seed)
    resampled, _ = _fit(totals)
    is_outside = bool(num_words.min() > 0 or num_words.max() < 0)
    return [
        {"difference": float(a), "ci": ci, "per_word": float(b), "extrapolated": is_outside}
        for a, b, ci in zip(intercepts[0], slopes[0], bootstrap.interval(resampled), strict=True)
    ]


def _fit(totals: Array) -> tuple[Array, Array]:
    """Return the intercepts and slopes of least squares, from sums of 1, x, x^2, y... and xy...."""
    n, x, xx = (totals[:, i : i + 1] for i in range(3))
    y, xy = np.split(totals[:, 3:], 2, axis=1)
    spread = n * xx - x**2
    slopes = np.divide(n * xy - x * y, spread, out=np.zeros_like(y), where=spread > 1e-9 * n * xx)
    return (y - slopes * x) / n, slopes
