"""Conformal risk control: the threshold it finds, and that what it promises holds on new images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from visvm.metrics.risk_control import calibrate, judge, losses, thresholds

TRUTH = {str(i): frozenset({"cup"}) for i in range(2000)}


def captions(num: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Captions of six sentences; a false one ("dog") has a lower reward than a true one, with overlap."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(num):
        false = rng.random(6) < 0.15
        rewards = np.where(false, 0.3, 0.5) + 0.1 * rng.standard_normal(6)
        texts = [f" There is a {'dog' if wrong else 'cup'}." for wrong in false]
        rows.append({"image_id": str(i), "sentences": texts, "values": rewards.tolist()})
    return rows


@pytest.mark.parametrize("risk", ["chair_s", "chair_i"])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.2])
def test_the_promise_holds_over_twenty_resplits(risk: Any, alpha: float) -> None:
    """Mean risk over the splits is at most alpha, within two standard errors of that mean."""
    judged = judge(captions(800), TRUTH)
    risks = []
    for split in range(20):
        order = np.random.default_rng(split).permutation(len(judged))
        known, new = ([judged[i] for i in part] for part in (order[:400], order[400:]))
        tau = calibrate(known, risk=risk, alpha=alpha)["tau"]
        risks.append(losses(new, np.array([tau]), risk).mean())
    assert np.mean(risks) <= alpha + 2 * np.std(risks) / np.sqrt(len(risks))
    assert np.mean(risks) > alpha / 2, "no more is dropped than is needed"


def test_the_threshold_is_the_least_that_keeps_the_bound() -> None:
    judged = judge(captions(200), TRUTH)
    found = calibrate(judged, risk="chair_s", alpha=0.1)
    taus = thresholds(judged)
    mean = losses(judged, taus, "chair_s").mean(axis=0)
    at = int(np.searchsorted(taus, found["tau"]))
    assert 200 / 201 * mean[at] + 1 / 201 <= 0.1 < 200 / 201 * mean[at - 1] + 1 / 201
    assert found["empirical_risk"] == pytest.approx(mean[at])


@pytest.mark.parametrize("risk", ["chair_s", "chair_i"])
def test_a_loss_never_rises_with_the_threshold(risk: Any) -> None:
    judged = judge(captions(50), TRUTH)
    table = losses(judged, thresholds(judged), risk)
    assert (np.diff(table, axis=1) <= 1e-12).all()
    assert (table[:, -1] == 0).all()


def test_too_few_images_are_told() -> None:
    with pytest.raises(ValueError, match="at least 19 are"):
        calibrate(judge(captions(10), TRUTH), risk="chair_s", alpha=0.05)


def test_captions_of_one_image_count_as_one() -> None:
    rows = captions(40)
    assert calibrate(judge(rows + rows, TRUTH), risk="chair_s", alpha=0.2)["num_images"] == 40


def test_a_caption_without_rewards_is_told() -> None:
    with pytest.raises(ValueError, match="image 3 has 0 rewards for 6 sentences"):
        judge([{**captions(4)[3], "values": []}], TRUTH)


def test_an_empty_caption_has_no_risk() -> None:
    rows = [{"image_id": "1", "sentences": [], "values": []}] * 2 + captions(30)
    assert calibrate(judge(rows, TRUTH), risk="chair_i", alpha=0.2)["num_images"] == 30
