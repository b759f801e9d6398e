"""Bootstrap intervals: images are the unit, ratios are ratios of sums, the seed fixes the draw."""

import numpy as np
import pytest

from visvm.metrics import bootstrap


def totals(counts, *, num_resamples=4000, seed=0):
    return bootstrap.resample(np.asarray(counts, float), num_resamples=num_resamples, seed=seed)


def test_each_resample_has_as_many_images():
    assert set(totals(np.ones((7, 1)))[:, 0]) == {7.0}


def test_the_seed_fixes_the_draw_and_all_columns_share_it():
    counts = np.arange(20.0).reshape(10, 2)
    assert (totals(counts) == totals(counts)).all()
    assert (totals(counts) != totals(counts, seed=1)).any()
    assert (totals(counts)[:, :1] == totals(counts[:, :1])).all()


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, size=(400, 1))
    means = totals(values) / 400
    [(low, high)] = bootstrap.interval(means)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_the_interval_has_the_stated_coverage():
    generator = np.random.default_rng(2)
    hits = 0
    for seed in range(300):
        draws = generator.random((60, 1)) < 0.3
        [(low, high)] = bootstrap.interval(totals(draws, num_resamples=400, seed=seed) / 60)
        hits += low <= 0.3 <= high
    assert 0.90 < hits / 300 < 0.99


def test_images_are_the_unit():
    """Ten equal captions of an image carry no more information than one."""
    values = np.random.default_rng(3).normal(size=(50, 1))
    one, ten = (bootstrap.interval(totals(k * values) / (50 * k)) for k in (1, 10))
    assert np.allclose(one, ten)


def test_ratios_are_of_sums_and_zero_by_zero_is_0():
    counts = np.array([[1.0, 10.0, 0.0], [1.0, 2.0, 0.0]])
    assert bootstrap.ratios(counts.sum(axis=0), [0, 0], [1, 2]).tolist() == [2 / 12, 0.0]
    assert bootstrap.ratios(counts, [0], [1]).tolist() == [[0.1], [0.5]]


def test_a_paired_interval_is_narrower_than_the_unpaired_ones():
    generator = np.random.default_rng(4)
    a = generator.normal(size=(200, 1))
    b = a + generator.normal(0.1, 0.1, size=(200, 1))
    difference = (totals(b) - totals(a)) / 200
    [(low, high)] = bootstrap.interval(difference)
    [(alone_low, alone_high)] = bootstrap.interval(totals(a) / 200)
    assert 0 < low < 0.1 < high
    assert high - low < (alone_high - alone_low) / 5
