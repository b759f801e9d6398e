"""Metrics that are ratios of counts summed over images, with their bootstrap intervals and differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visvm.metrics import bootstrap
from visvm.metrics.bootstrap import Array, Resampling

ImageCounts = dict[str, Array]


@dataclass(frozen=True)
class RatioMetrics:
    """What is counted, and the metrics: (numerator, denominator) by name."""

    counts: tuple[str, ...]
    metrics: Mapping[str, tuple[str, str]]

    def add_up(self, counted: Iterable[tuple[str, Mapping[str, float]]]) -> ImageCounts:
        """Sum the counts of (image, counts) pairs over each image; images come sorted."""
        images: ImageCounts = {}
        for image, numbers in counted:
            images[image] = images.get(image, np.zeros(len(self.counts))) + [
                float(numbers[name]) for name in self.counts
            ]
        return {image: images[image] for image in sorted(images)}

    def totals(self, images: ImageCounts) -> dict[str, float]:
        """Return every count, summed over images."""
        sums = sum(images.values(), np.zeros(len(self.counts)))
        return dict(zip(self.counts, sums.tolist(), strict=True))

    def sides(self, names: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the columns of the numerators and denominators of some metrics."""
        above, below = zip(*(self.metrics[name] for name in names), strict=True)
        return [self.counts.index(name) for name in above], [self.counts.index(name) for name in below]

    def ratios(self, totals: Array) -> Array:
        """Return the metrics of totals [..., counts]; nothing out of nothing is 0."""
        return bootstrap.ratios(totals, *self.sides(list(self.metrics)))

    def resampled(self, counts: Array, resampling: Resampling) -> Array:
        """Return the metrics [resamples, metrics] of images drawn with replacement from [images, counts]."""
        return self.ratios(
            bootstrap.resample(counts, num_resamples=resampling.num_resamples, seed=resampling.seed)
        )

    def evaluate(self, images: ImageCounts, resampling: Resampling) -> dict[str, Any]:
        """Return each metric and, as NAME_ci, its 95 % interval over images."""
        counts = stack(images)
        intervals = bootstrap.interval(self.resampled(counts, resampling))
        found: dict[str, Any] = {}
        for name, value, interval in zip(
            self.metrics, self.ratios(counts.sum(axis=0)), intervals, strict=True
        ):
            found |= {name: float(value), f"{name}_ci": interval}
        return found

    def differences(self, a: ImageCounts, b: ImageCounts, resampling: Resampling) -> dict[str, Any]:
        """Return each metric's difference a - b over the images of both, as {difference, ci}."""
        shared = sorted(a.keys() & b.keys())
        if not shared:
            return {}
        sides = [stack({image: one[image] for image in shared}) for one in (a, b)]
        values = self.ratios(sides[0].sum(axis=0)) - self.ratios(sides[1].sum(axis=0))
        samples = self.resampled(sides[0], resampling) - self.resampled(sides[1], resampling)
        return {
            name: {"difference": float(value), "ci": interval}
            for name, value, interval in zip(self.metrics, values, bootstrap.interval(samples), strict=True)
        }


def stack(images: ImageCounts) -> Array:
    """Return the counts of images as [images, counts]."""
    return np.stack(list(images.values()))
