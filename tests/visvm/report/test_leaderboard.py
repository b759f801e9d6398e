"""The leaderboard: its order, and its marks of differences that are clear of zero."""

from __future__ import annotations

from typing import Any

from visvm.report.leaderboard import beaten, difference, leaderboard, mark

KEYS = ("chair_s", "chair_i", "chair_i_distinct", "recall", "f1", "repetition")
PAIRED = [
    {"a": "visvm", "b": "greedy", "metric": "chair_s", "difference": -0.2, "ci": [-0.3, -0.1]},
    {"a": "visvm", "b": "greedy", "metric": "recall", "difference": -0.1, "ci": [-0.2, -0.05]},
    {"a": "prm", "b": "greedy", "metric": "chair_s", "difference": -0.1, "ci": [-0.2, 0.1]},
]


def row(method: str, chair_s: float, **more: Any) -> dict[str, Any]:
    return {"method": method, **dict.fromkeys(KEYS, 0.5), "chair_s": chair_s, "num_words": 50, **more}


ROWS = [row("greedy", 0.4), row("visvm", 0.2, num_generated_tokens=380.0), row("prm", 0.3)]


def test_the_least_hallucination_comes_first_and_clear_differences_are_marked() -> None:
    table = leaderboard(ROWS, PAIRED, {"MMHal": {"visvm": "3.1"}})
    best = dict(zip(table.columns, table.cells[0], strict=True))
    assert [cells[0] for cells in table.cells] == ["1", "2", "3"]
    assert best["method"].startswith("stepwise, value") and best["CHAIRs"] == "20.0 +"
    assert best["recall"] == "50.0 -" and best["F1"] == "50.0"
    assert (best["MMHal"], best["tokens"], best["clear of 0 in CHAIRs"]) == ("3.1", "380", "greedy")
    assert table.cells[1][2] == "30.0" and table.cells[1][-1] == "-"


def test_a_difference_is_read_in_both_directions() -> None:
    found = difference(PAIRED, "greedy", "visvm", "chair_s")
    assert found == {"difference": 0.2, "ci": [0.1, 0.3]}
    assert mark(PAIRED, "greedy", "visvm", "chair_s") == " -"
    assert difference(PAIRED, "prm", "visvm", "chair_s") is None
    assert beaten(PAIRED, "greedy") == []
