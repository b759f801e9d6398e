"""Metrics that a caption cannot raise by repeating itself or by saying less."""

from __future__ import annotations

import hashlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from visvm.metrics.bootstrap import Resampling
from visvm.metrics.evaluation import evaluate

TRUTH = {"7": frozenset({"dog", "cat", "bench"})}
TRUE = ["A dog sits.", "There is a cat.", "A bench stands by the wall."]
FALSE = ["A car is near.", "He holds a fork.", "Two birds fly."]
FEW = Resampling(num_resamples=100)


def judge(sentences: list[str]) -> dict[str, Any]:
    [row] = evaluate({"a": [{"image_id": 7, "caption": " ".join(sentences)}]}, TRUTH, resampling=FEW)["rows"]
    return row


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    true=st.lists(st.sampled_from(TRUE), min_size=1, unique=True),
    false=st.lists(st.sampled_from(FALSE), unique=True),
    again=st.lists(st.integers(0, 2), min_size=1, max_size=6),
)
def test_repeating_true_sentences_changes_no_distinct_metric_and_shows(
    true: list[str], false: list[str], again: list[int]
) -> None:
    once, repeated = judge(true + false), judge(true + false + [true[i % len(true)] for i in again])
    for name in ("chair_i_distinct", "precision", "recall", "f1"):
        assert repeated[name] == once[name]
    assert once["repetition"] == 0 < repeated["repetition"]
    assert repeated["distinct_2"] < once["distinct_2"]
    assert repeated["chair_i"] < once["chair_i"] or not false


def test_precision_and_f1_are_of_distinct_objects() -> None:
    row = judge(["A dog, a dog, a dog and a fork."])
    assert (row["chair_i"], row["chair_i_distinct"], row["precision"]) == (0.25, 0.5, 0.5)
    assert row["recall"] == 1 / 3
    assert row["f1"] == 2 * (0.5 * (1 / 3)) / (0.5 + 1 / 3)


def test_unlike_image_sets_are_compared_on_the_common_one_too() -> None:
    truth = {str(i): frozenset({"dog"}) for i in range(4)}
    good = [{"image_id": i, "caption": "A dog."} for i in (0, 1, 2)]
    bad = [{"image_id": i, "caption": "A dog and a cat." if i < 3 else "A dog."} for i in (1, 2, 3)]
    result = evaluate({"good": good, "bad": bad}, truth, resampling=FEW)
    common = result["common"]
    assert (common["num_images"], [row["chair_s"] for row in common["rows"]]) == (2, [0, 1])
    assert common["image_ids_sha256"] == hashlib.sha256(b"1\n2").hexdigest()
    assert [row["num_images"] for row in result["rows"]] == [3, 3]
    assert "common" not in evaluate({"good": good, "bad": good}, truth, resampling=FEW)


def test_differences_are_given_at_equal_length_besides() -> None:
    """Captions that say half as much make half the mistakes: at equal length there is no difference."""
    truth = {str(i): frozenset({"dog"}) for i in range(60)}
    long = [{"image_id": i, "caption": "A dog and a cat." if i % 2 else "A dog."} for i in range(60)]
    short = [{"image_id": i, "caption": "A dog and a cat." if i % 4 == 1 else "A dog."} for i in range(60)]
    paired = evaluate({"long": long, "short": short}, truth, resampling=FEW)["paired"]
    [row] = [one for one in paired if one["metric"] == "chair_s"]
    assert row["difference"] == -0.25
    assert abs(row["at_equal_length"]["difference"]) < 1e-9
    assert row["at_equal_length"]["per_word"] > 0
    assert not any("at_equal_length" in one for one in paired if one["metric"] == "num_words")


def test_the_values_of_sentences_are_calibrated() -> None:
    row = {
        "image_id": 7,
        "caption": "A dog. A car.",
        "sentences": ["A dog.", " A car."],
        "values": [0.9, 0.1],
    }
    result = evaluate({"a": [row], "b": [{"image_id": 7, "caption": "A dog."}]}, TRUTH, resampling=FEW)
    assert list(result["calibration"]) == ["a"]
    assert result["calibration"]["a"][0]["risk"] == 0.5
