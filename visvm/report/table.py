"""Results as tables: one line per method, percentages with their 95 % intervals over images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

NAMES = {
    "greedy": "greedy",
    "prm": "stepwise, CLIP reward (PRM)",
    "mcts": "MCTS, CLIP reward",
    "visvm": "stepwise, value (VisVM)",
    "reward_plus_future": "stepwise, reward + future",
    "oracle": "oracle look-ahead",
    "sft_greedy": "SFT on greedy, then greedy",
    "sft_prm": "SFT on PRM, then greedy",
    "sft_visvm": "SFT on VisVM, then greedy",
}


class Column(NamedTuple):
    """A column: its title, and the function that formats its cell of a row."""

    title: str
    text: Callable[[Row], str]


def name_of(method: str) -> str:
    """Return the display name of a method."""
    return NAMES.get(method, method.replace("_", " "))


def _percent(key: str) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        if row.get(key) is None:  # a results file of an earlier version
            return "-"
        interval = row.get(f"{key}_ci")
        number = f"{100 * row[key]:.1f}"
        return f"{number} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else number

    return text


def _number(key: str, digits: int) -> Callable[[Row], str]:
    return lambda row: "-" if row[key] is None else f"{row[key]:.{digits}f}"


COLUMNS = (
    Column("method", lambda row: name_of(row["method"])),
    Column("CHAIRs", _percent("chair_s")),
    Column("CHAIRi", _percent("chair_i")),
    Column("distinct CHAIRi", _percent("chair_i_distinct")),
    Column("recall", _percent("recall")),
    Column("F1", _percent("f1")),
    Column("repetition", _percent("repetition")),
    Column("sentences", _number("num_sentences", 1)),
    Column("words", _number("num_words", 1)),
    Column("tokens", _number("num_generated_tokens", 0)),
    Column("values", _number("num_value_calls", 0)),
    Column("s/caption", _number("seconds_per_caption", 3)),
)

DIFFERENCES = {
    "chair_s": "CHAIRs",
    "chair_i": "CHAIRi",
    "chair_i_distinct": "distinct CHAIRi",
    "recall": "recall",
    "f1": "F1",
    "repetition": "repetition",
    "num_words": "words",
}


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Format every row as one cell per column of COLUMNS."""
    return [[column.text(row) for column in COLUMNS] for row in rows]


def paired_cells(paired: Sequence[Row]) -> list[list[str]]:
    """Format one line per pair: "a - b", then the difference of every metric with its interval."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in paired:
        lines.setdefault((row["a"], row["b"]), {})[row["metric"]] = _difference(row)
    return [
        [f"{name_of(a)} - {name_of(b)}", *(line.get(metric, "-") for metric in DIFFERENCES)]
        for (a, b), line in lines.items()
    ]


def at_equal_length(paired: Sequence[Row]) -> list[Row]:
    """Return the paired differences at equal caption length in place of the observed ones."""
    return [{**row, **row["at_equal_length"]} for row in paired if "at_equal_length" in row]


def _difference(row: Row) -> str:
    """Format a difference: fractions in percentage points, counts unchanged; "*" marks an extrapolation."""
    factor = 1 if row["metric"].startswith("num_") else 100
    low, high = (factor * bound for bound in row["ci"])
    mark = "*" if row.get("extrapolated") else ""
    return f"{factor * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]{mark}"


def format_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain-text table, its first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def results_table(rows: Sequence[Row]) -> str:
    """Return the rows of a results file as a plain-text table."""
    return format_table([column.title for column in COLUMNS], cells(rows))


def paired_table(paired: Sequence[Row]) -> str:
    """Return the paired differences of a results file as a plain-text table."""
    return format_table(["difference", *DIFFERENCES.values()], paired_cells(paired))
