"""The plots of a report, made from the metrics that the jobs write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visvm.report.plots import Plot, Series
from visvm.report.table import Row, name_of


def value_plots(runs: Mapping[str, Mapping[str, Any]]) -> list[Plot]:
    """Plot the TD loss and the held-out explained variance of value models, given their metrics by name."""
    losses = [_series(name, run["curve"], "td_loss") for name, run in runs.items()]
    explained = [
        _series(name, [entry["held_out"] | entry for entry in run["evaluations"]], "explained_variance")
        for name, run in runs.items()
    ]
    return [
        Plot("Value training: TD loss", "step", "squared TD error", losses),
        Plot("Value model on held-out images", "step", "explained variance of the return", explained),
    ]


def sft_plot(runs: Mapping[str, Sequence[Row]]) -> Plot:
    """Plot the training loss of fine-tuned policies, by the method whose captions they were trained on."""
    series = [_series(name_of(method), curve, "loss") for method, curve in runs.items()]
    return Plot("Fine-tuning: loss", "step", "nats a token", series)


def cost_plot(rows: Sequence[Row]) -> Plot:
    """Plot the CHAIRs of every method against the tokens it samples per caption."""
    series = [_rates(row["method"], [row], "num_generated_tokens", "chair_s") for row in rows]
    title, x = "Hallucination against cost", "tokens sampled a caption"
    return Plot(title, x, "CHAIRs, %", series, log_x=True, points=True)


def centre_plots(curves: Mapping[str, Sequence[Row]], others: Sequence[Row]) -> list[Plot]:
    """Plot CHAIRs and recall against caption length as the reward centre varies, and ``others`` beside."""
    plots = []
    for key, label in (("chair_s", "CHAIRs, %"), ("recall", "recall, %")):
        series = [_rates(method, rows, "num_sentences", key) for method, rows in curves.items()]
        series += [_rates(row["method"], [row], "num_sentences", key) for row in others]
        title = "Moving the reward centre (validation images)"
        plots.append(Plot(title, "sentences a caption", label, series))
    return plots


def step_size_plot(curves: Mapping[str, Sequence[Row]]) -> Plot:
    """Plot CHAIRs against the step size K of each method; rows have the key "step_size"."""
    series = [_rates(method, rows, "step_size", "chair_s") for method, rows in curves.items()]
    return Plot("Candidates a step", "step size K", "CHAIRs, %", series, log_x=True)


def risk_plot(curves: Mapping[str, Sequence[Row]]) -> Plot:
    """Plot the risk of sentences of value at least tau against the share of sentences that have it."""
    series = [_rates(method, rows, "coverage", "risk") for method, rows in curves.items()]
    return Plot("Risk as the threshold on values rises", "share of sentences kept", "risk, %", series)


def round_plots(splits: Mapping[str, Sequence[Row]]) -> list[Plot]:
    """Plot what each round of self-training has changed; ``splits`` has the rows by round of each split."""
    labels = {
        "chair_s": ("CHAIRs", "%", 100),
        "recall": ("Recall", "%", 100),
        "repetition": ("Repeated sentences", "%", 100),
        "num_objects": ("Objects named", "distinct objects a caption", 1),
        "num_sentences": ("Length", "sentences a caption", 1),
    }
    return [
        Plot(title, "round", unit, [_by_round(name, rows, key, factor) for name, rows in splits.items()])
        for key, (title, unit, factor) in labels.items()
    ]


def _by_round(label: str, rows: Sequence[Row], key: str, factor: float) -> Series:
    bounds = [[factor * row[f"{key}_ci"][end] for row in rows] for end in (0, 1)]
    return Series(label, list(range(len(rows))), [factor * row[key] for row in rows], *bounds)


def _series(label: str, curve: Sequence[Row], key: str) -> Series:
    points = [(entry["step"], entry[key]) for entry in curve if entry.get(key) is not None]
    return Series(label, [x for x, _ in points], [y for _, y in points])


def _rates(method: str, rows: Sequence[Row], x: str, y: str) -> Series:
    """Return metric ``y``, in percent with its interval, as a series over ``x``."""
    rows = sorted(rows, key=lambda row: row[x])
    low, high = ([100 * row[f"{y}_ci"][end] for row in rows] for end in (0, 1))
    return Series(name_of(method), _column(rows, x), [100 * row[y] for row in rows], low, high)


def _column(rows: Sequence[Row], key: str) -> list[Any]:
    return [row[key] for row in rows]
