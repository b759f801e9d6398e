"""Bootstrap intervals with images as the unit: an image is drawn together with all its captions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """Settings of the 95 % percentile bootstrap over images."""

    num_resamples: int = 2000
    seed: int = 0


DEFAULT = Resampling()


def resample(counts: Array, *, num_resamples: int, seed: int) -> Array:
    """Sum ``counts`` [images, columns] over images drawn with replacement: [num_resamples, columns].

    Calls with the same number of images, number of resamples and seed draw the same images, so that their
    results can be compared pairwise.
    """
    return _weights(len(counts), num_resamples, seed) @ counts


def ratios(totals: Array, numerators: list[int], denominators: list[int]) -> Array:
    """Divide columns of ``totals`` [..., columns] by other columns; 0 / 0 is 0."""
    above, below = totals[..., numerators], totals[..., denominators]
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def interval(samples: Array, *, confidence: float = 0.95) -> list[list[float]]:
    """Return the percentile interval [low, high] of each column of ``samples`` [num_resamples, columns]."""
    tail = (1 - confidence) / 2
    return np.quantile(samples, [tail, 1 - tail], axis=0).T.tolist()


@lru_cache(maxsize=2)
def _weights(num_images: int, num_resamples: int, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    chances = np.full(num_images, 1 / num_images)
    return generator.multinomial(num_images, chances, size=num_resamples).astype(np.float64)
