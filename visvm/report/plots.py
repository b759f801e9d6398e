"""Plots as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

MARKERS = "os^vD<>PXph*"


@dataclass(frozen=True)
class Series:
    """One curve: its points and, where known, the ends of their confidence intervals."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Plot:
    """One plot; with ``points`` its series are single points instead of curves."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    points: bool = False


def to_svg(plot: Plot) -> str:
    """Render the plot as an <svg> element; equal plots give equal text."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "visvm", "font.size": 9}):
        figure = Figure(figsize=(7.4 if plot.points else 5.2, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for i, series in enumerate(plot.series):
            _draw(axes, series, MARKERS[i % len(MARKERS)] if plot.points else "")
        if plot.log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        if plot.points:
            figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        elif len(plot.series) > 1:
            axes.legend(frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(["Date", "Creator", "Format", "Type"]))
    text = out.getvalue()
    return text[text.index("<svg") :]


def _draw(axes: Axes, series: Series, marker: str) -> None:
    """Draw a series as points with this marker or, without one, as a curve."""
    style = marker or ("o-" if len(series.x) < 20 else "-")
    [line] = axes.plot(series.x, series.y, style, markersize=5, linewidth=1.3, label=series.label)
    if series.low is None or series.high is None:
        return
    if marker:
        axes.vlines(series.x, series.low, series.high, color=line.get_color(), linewidth=1)
    else:
        axes.fill_between(series.x, series.low, series.high, alpha=0.15, color=line.get_color())
