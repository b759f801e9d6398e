"""Differences at equal length: the regression finds what made the data."""

from __future__ import annotations

import numpy as np
import pytest

from visvm.metrics.bootstrap import Resampling
from visvm.metrics.length_control import at_equal_length, linearised

RESAMPLING = Resampling(num_resamples=500)


def test_the_parts_of_images_average_to_the_ratio_of_sums() -> None:
    counts = np.random.default_rng(0).integers(1, 9, size=(30, 3)).astype(float)
    parts = linearised(counts, [0, 1], [2, 2])
    assert parts.mean(axis=0) == pytest.approx(counts.sum(axis=0)[:2] / counts[:, 2].sum())


def test_nothing_out_of_nothing_is_0() -> None:
    assert linearised(np.zeros((3, 2)), [0], [1]).tolist() == [[0.0]] * 3


def test_a_difference_that_follows_from_length_alone_vanishes() -> None:
    generator = np.random.default_rng(1)
    num_words = generator.normal(-20, 15, size=300)
    length_only = 0.004 * num_words + generator.normal(0, 0.05, size=300)
    real = length_only - 0.1
    found = at_equal_length(np.column_stack([length_only, real]), num_words, RESAMPLING)
    assert found[0]["ci"][0] < 0 < found[0]["ci"][1]
    assert found[1]["ci"][0] < -0.1 < found[1]["ci"][1] < -0.05
    assert [one["per_word"] for one in found] == pytest.approx([0.004, 0.004], abs=0.001)
    assert not found[0]["extrapolated"]
    least_squares = np.polyfit(num_words, real, 1)
    assert (found[1]["per_word"], found[1]["difference"]) == pytest.approx(tuple(least_squares))


def test_equal_lengths_leave_the_difference_as_it_is() -> None:
    differences = np.array([[0.0], [1.0], [0.5]])
    [found] = at_equal_length(differences, np.zeros(3), RESAMPLING)
    assert (found["difference"], found["per_word"]) == (0.5, 0.0)
    [found] = at_equal_length(differences, np.full(3, -2.0), RESAMPLING)
    assert (found["difference"], found["extrapolated"]) == (0.5, True)
