"""The leaderboard: methods by metrics with intervals and cost, and which differences are clear of zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visvm.report.table import Row, name_of, percent

METRICS = {  # title and whether lower is better
    "chair_s": ("CHAIRs", True),
    "chair_i": ("CHAIRi", True),
    "chair_i_distinct": ("distinct CHAIRi", True),
    "recall": ("recall", False),
    "f1": ("F1", False),
    "repetition": ("repetition", True),
}
COSTS = {"num_words": "words", "num_generated_tokens": "tokens", "num_value_calls": "values"}
Extra = Mapping[str, Mapping[str, str]]
"""More columns: by title, the cell of each method."""


@dataclass(frozen=True)
class PageTable:
    """A table of a page: its heading, what to know about it, its columns and its cells."""

    title: str
    note: str
    columns: Sequence[str]
    cells: Sequence[Sequence[str]]


def leaderboard(
    rows: Sequence[Row], paired: Sequence[Row], extra: Extra | None = None, *, base: str | None = None
) -> PageTable:
    """Return the methods, the least CHAIRs first, marked against ``base`` (default: the first row)."""
    base = base or str(rows[0]["method"])
    ordered = sorted(rows, key=lambda row: (row["chair_s"], str(row["method"])))
    more = extra or {}
    cells = [
        [
            str(place),
            name_of(row["method"]),
            *(percent(key)(row) + mark(paired, row["method"], base, key) for key in METRICS),
            *(column.get(row["method"], "-") for column in more.values()),
            *(_cost(row, key) for key in COSTS),
            ", ".join(map(name_of, beaten(paired, row["method"]))) or "-",
        ]
        for place, row in enumerate(ordered, start=1)
    ]
    titles = [title for title, _ in METRICS.values()]
    note = (
        "In percent, with 95 % intervals over images; words, tokens sampled and sentences scored are means a"
        f" caption. + and - mark what is clearly better or worse than {name_of(base)}: the interval of the"
        " paired difference leaves out 0. The last column names the methods whose CHAIRs is clearly higher."
    )
    return PageTable(
        "Leaderboard",
        note,
        ["place", "method", *titles, *more, *COSTS.values(), "clear of 0 in CHAIRs"],
        cells,
    )


def mark(paired: Sequence[Row], method: str, base: str, key: str) -> str:
    """Return " +" or " -" if a method is clearly better or worse than another, else nothing."""
    interval = difference(paired, method, base, key)
    if interval is None or interval["ci"][0] <= 0 <= interval["ci"][1]:
        return ""
    return " +" if (interval["difference"] < 0) == METRICS[key][1] else " -"


def beaten(paired: Sequence[Row], method: str, key: str = "chair_s") -> list[str]:
    """Return the methods that are clearly worse than this one."""
    others = dict.fromkeys(name for row in paired for name in (row["a"], row["b"]) if name != method)
    return [other for other in others if mark(paired, method, other, key) == " +"]


def difference(paired: Sequence[Row], a: str, b: str, key: str) -> dict[str, Any] | None:
    """Return the paired difference a - b of a metric and its interval; None if it was not computed."""
    for row in paired:
        if row["metric"] == key and (row["a"], row["b"]) == (a, b):
            return {"difference": row["difference"], "ci": row["ci"]}
        if row["metric"] == key and (row["a"], row["b"]) == (b, a):
            low, high = row["ci"]
            return {"difference": -row["difference"], "ci": [-high, -low]}
    return None


def _cost(row: Row, key: str) -> str:
    return "-" if row.get(key) is None else f"{row[key]:.0f}"
