"""The report of a finished demo: one HTML page made from what its stages wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.runner.part_files import read_rows
from jobs.workflow.stages import Metrics, Stages
from visvm import storage
from visvm.metrics import read_truth
from visvm.metrics.coco import image_key
from visvm.report import Plot, Report, ReportExample, curves, render
from visvm.report.leaderboard import leaderboard

SHOWN = ("greedy", "prm", "visvm", "reward_plus_future", "sft_visvm")


def write(stages: Stages, runs: Mapping[str, str], metrics: Metrics) -> str:
    """Write report.html; return its path."""
    report = Report(
        title="visvm: the whole loop on the embedded world",
        facts=_facts(stages, metrics),
        rows=metrics["rows"],
        paired=main_differences(metrics["paired"]),
        tables=[leaderboard(metrics["rows"], metrics["paired"])],
        plots=_plots(stages, metrics),
        examples=examples(stages.path("images/test"), _shown(runs), metrics["config"]["num_examples"]),
    )
    page = stages.path("report.html")
    storage.write(page, render(report))
    return page


def main_differences(paired: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the dozen differences that the method is about; metrics.json has all of them.

    VisVM is compared with the other searches, the policy tuned on its captions with the others and greedy.
    """
    return [row for row in paired if _is_main({row["a"], row["b"]})]


def _is_main(pair: set[str]) -> bool:
    if "sft_visvm" in pair:
        return all(name in ("greedy", "visvm") or name.startswith("sft_") for name in pair)
    return "visvm" in pair and not any(name.startswith(("sft_", "visvm_seed_")) for name in pair)


def _facts(stages: Stages, metrics: Metrics) -> dict[str, str]:
    config, rollouts = metrics["config"], stages.metrics("rollouts")
    return {
        "size": f"{config['size']}, seed {config['seed']}",
        "images": f"{config['num_train']} to learn from, {config['num_test']} held out for the table",
        "rollouts": f"{rollouts['num_responses']} responses, {rollouts['num_triples']} triples",
        "mean reward": f"{rollouts['reward_mean']:.3f}, standard deviation {rollouts['reward_std']:.3f}",
        "reward centre": ", ".join(f"{name} {centre:.3f}" for name, centre in metrics["centres"].items()),
    }


def _plots(stages: Stages, metrics: Metrics) -> list[Plot]:
    plots = [curves.cost_plot(metrics["rows"])]
    found = metrics["curves"]
    if "centre" in found:
        plots += curves.centre_plots(found["centre"], found["centre_compared"])
    if "step_size" in found:
        plots.append(curves.step_size_plot(found["step_size"]))
    if calibration := {name: curve for name, curve in metrics["calibration"].items() if name in SHOWN}:
        plots.append(curves.risk_plot(calibration))
    values = {name: stages.metrics(f"value/{name}") for name in _below(stages.path("value"))}
    tuned = {name: stages.metrics(f"sft/{name}")["loss"] for name in _below(stages.path("sft"))}
    return [*plots, *curves.value_plots(values), *([curves.sft_plot(tuned)] if tuned else [])]


def _below(folder: str) -> list[str]:
    """Return the names of the runs in a folder of runs."""
    return sorted({file.name.partition("/")[0] for file in storage.walk(folder)})


def _shown(runs: Mapping[str, str]) -> dict[str, str]:
    return {method: runs[method] for method in SHOWN if method in runs}


def examples(coco: str, runs: Mapping[str, str], count: int) -> list[ReportExample]:
    """Return the first ``count`` images of a COCO folder with their captions by each run."""
    captions = {method: _captions(folder) for method, folder in runs.items()}
    ids = sorted(captions["greedy"])[:count]
    truth = read_truth(coco, ids)
    return [
        ReportExample(
            captions["greedy"][image_id]["uri"],
            truth[image_key(image_id)],
            {method: rows[image_id] for method, rows in captions.items()},
        )
        for image_id in ids
    ]


def _captions(folder: str) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in read_rows(f"{folder}/captions")}
