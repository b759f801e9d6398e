"""Tables of benchmarks whose metrics are fractions: methods in rows, metrics in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visvm.report.table import format_table, name_of


def metrics_table(rows: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Format the metrics of each method in percent, with their intervals."""
    cells = [[name_of(name), *(_percent(row, metric) for metric in metrics)] for name, row in rows.items()]
    return format_table(["method", *metrics], cells)


def differences_table(paired: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
    """Format paired differences ({a, b, METRIC: {difference, ci}}) in percentage points."""
    cells = [
        [f"{name_of(row['a'])} - {name_of(row['b'])}", *(_points(row[metric]) for metric in metrics)]
        for row in paired
    ]
    return format_table(["difference", *metrics], cells)


def _percent(row: Mapping[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_ci"]
    return f"{100 * row[metric]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _points(one: Mapping[str, Any]) -> str:
    low, high = one["ci"]
    return f"{100 * one['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
