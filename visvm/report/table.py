"""Results as tables: one line per method, percentages with their 95 % intervals over images."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Name = Callable[[str], str]

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
    "best_of_30": "best of 30",
    "sft_best_of_30": "SFT on best of 30, then greedy",
    "visvm_second_reward": "VisVM, second reward",
}


class Column(NamedTuple):
    """A column: its title, and the function that formats its cell of a row."""

    title: str
    text: Callable[[Row], str]


def name_of(method: str) -> str:
    """Return the display name of a method."""
    return NAMES.get(method, method)


def percent(key: str) -> Callable[[Row], str]:
    """Return the function that formats a fraction of a row in percent, with its interval."""

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
    Column("n", lambda row: str(row.get("num_images", "-"))),
    Column("CHAIRs", percent("chair_s")),
    Column("CHAIRi", percent("chair_i")),
    Column("distinct CHAIRi", percent("chair_i_distinct")),
    Column("recall", percent("recall")),
    Column("F1", percent("f1")),
    Column("repetition", percent("repetition")),
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


def cells(rows: Sequence[Row], name: Name = name_of) -> list[list[str]]:
    """Format every row as one cell per column of COLUMNS; ``name`` gives that of a method."""
    return [[name(row["method"]), *(column.text(row) for column in COLUMNS[1:])] for row in rows]


def paired_cells(paired: Sequence[Row], name: Name = name_of) -> list[list[str]]:
    """Format one line per pair: "a - b", then the difference of every metric with its interval."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in paired:
        lines.setdefault((row["a"], row["b"]), {})[row["metric"]] = _difference(row)
    return [
        [f"{name(a)} - {name(b)}", *(line.get(metric, "-") for metric in DIFFERENCES)]
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


def results_table(rows: Sequence[Row], name: Name = name_of) -> str:
    """Return the rows of a results file as a plain-text table."""
    return format_table([column.title for column in COLUMNS], cells(rows, name))


def paired_table(paired: Sequence[Row], name: Name = name_of) -> str:
    """Return the paired differences of a results file as a plain-text table."""
    return format_table(["difference", *DIFFERENCES.values()], paired_cells(paired, name))


def markdown_tables(rows: Sequence[Row], paired: Sequence[Row]) -> str:
    """Return a results file's rows, and its differences if it has any, as tables in Markdown."""
    tables = [markdown_table([column.title for column in COLUMNS], cells(rows, str))]
    if paired:
        tables.append(markdown_table(["difference", *DIFFERENCES.values()], paired_cells(paired, str)))
    return "\n\n".join(tables) + "\n"


def markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---", *("---:" for _ in titles[1:])], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def csv_table(rows: Sequence[Row]) -> str:
    """Return the figures of a results file's rows as CSV, intervals as NAME_low and NAME_high."""
    flat = [dict(_flat(row)) for row in rows]
    file = io.StringIO()
    writer = csv.DictWriter(
        file, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _flat(row: Row) -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        if key.endswith("_ci"):
            yield from zip((f"{key[:-3]}_low", f"{key[:-3]}_high"), value, strict=True)
        elif not isinstance(value, list | dict):
            yield key, value
