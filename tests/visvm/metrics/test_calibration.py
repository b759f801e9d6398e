"""Risk against a threshold on the values of sentences."""

from __future__ import annotations

import pytest

from visvm.metrics.bootstrap import Resampling
from visvm.metrics.calibration import risk_curve

TRUTH = {"1": frozenset({"dog"}), "2": frozenset({"cat"})}


def test_risk_falls_where_values_rank_sentences_well() -> None:
    rows = [
        {"image_id": 1, "sentences": ["A dog.", " A cat."], "values": [0.9, 0.1]},
        {"image_id": 2, "sentences": ["A cat.", " A dog."], "values": [0.8, 0.2]},
        {"image_id": 2, "sentences": ["A dog."], "values": None},
    ]
    curve = risk_curve(rows, TRUTH, resampling=Resampling(num_resamples=100))
    assert (curve[0]["tau"], curve[0]["risk"], curve[0]["coverage"]) == (pytest.approx(0.1), 0.5, 1.0)
    assert (curve[-1]["risk"], curve[-1]["coverage"]) == (0.0, 0.25)
    assert curve[0]["risk_ci"] == [0.5, 0.5]
    risks = [point["risk"] for point in curve]
    assert risks == sorted(risks, reverse=True)


def test_captions_without_values_have_no_curve() -> None:
    assert risk_curve([{"image_id": 1, "caption": "A dog."}], TRUTH) == []
