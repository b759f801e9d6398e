"""The page and the tables of reproduce: our figures with intervals, and the paper's beside them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.workflow.demo_report import examples
from jobs.workflow.loop_config import ROWS
from jobs.workflow.reproduce_config import ReproduceConfig
from jobs.workflow.stages import Metrics, Stages
from visvm import storage
from visvm.report import PageTable, Plot, Report, curves, render
from visvm.report.leaderboard import difference, leaderboard
from visvm.report.paper import figures_for
from visvm.report.table import markdown_table, name_of, percent

Row = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, str]]
SHOWN = ("greedy", "prm", "visvm", "sft_visvm")
TRUTH = {
    "amber_cover": "AMBER cover",
    "amber_chair": "AMBER CHAIR",
    "pope_f1": "POPE F1",
    "mmhal_score": "MMHal score",
    "mmhal_rate": "MMHal rate",
}


def write(config: ReproduceConfig, stages: Stages, metrics: Metrics) -> str:
    """Write report.html and tables.md; return the tables."""
    tables = page_tables(config, metrics)
    text = "\n\n".join(
        f"## {one.title}\n\n{one.note}\n\n{markdown_table(one.columns, one.cells)}" for one in tables
    )
    storage.write(stages.path("tables.md"), text + "\n")
    shown = {name: metrics["runs"][name] for name in SHOWN if name in metrics["runs"]}
    is_world = config.model == "world"
    report = Report(
        title=f"visvm reproduce: the paper's tables, {config.model}",
        facts=_facts(config, metrics),
        rows=metrics["rows"],
        paired=_against_greedy(metrics["paired"]),
        plots=_plots(metrics),
        examples=examples(stages.path("images/test"), shown, config.num_examples) if is_world else [],
        tables=tables,
    )
    storage.write(stages.path("report.html"), render(report))
    return text


def page_tables(config: ReproduceConfig, metrics: Metrics) -> list[PageTable]:
    """Return tables 1 and 2, probe, units of a step, the order of the rows and the leaderboard."""
    paper, names = figures_for(config.model), [row["method"] for row in metrics["rows"]]
    found = benchmark_cells(metrics["benchmarks"])
    tuned = ["greedy", *(name for name in names if name.startswith("sft_"))]
    probes = [name for name in names if name.startswith("probe_")]
    units = [row["method"] for row in metrics["units"]]
    order = "Order of the rows"
    tables = [
        _table("Table 1: searches", [name for name in names if name in ROWS], metrics, found, paper),
        _table("Table 2: fine-tuned policies", tuned, metrics, found, paper),
        _table("Look-ahead probe", probes, metrics, {}, paper),
        _table("Unit of a step", units, {"rows": metrics["units"]}, {}, {}),
        PageTable(order, NOTES[order], ORDER_COLUMNS, order_cells(metrics["paired"], paper)),
        leaderboard(metrics["rows"], metrics["paired"], found, base="greedy"),
    ]
    return [one for one in tables if one.cells]


NOTES = {
    "Table 1: searches": "The paper's figures (LLaVA-Next-7B or Qwen2-VL-7B, on COCO) stand beside ours, made"
    " with the model and images named above: what can be compared is the order, not the size.",
    "Table 2: fine-tuned policies": "The policy fine-tuned on the captions of each search and decoded"
    " greedily; the first row is the base.",
    "Look-ahead probe": "One sentence (@ its number) is chosen by each scorer from the same candidates; all"
    " others are greedy. The paper's figures are those of its own probe.",
    "Unit of a step": "What one step of each search writes; the value model has learned from sentences.",
    "Order of the rows": "Every pair of rows that the paper orders by CHAIRs, and our paired difference with"
    " its 95 % interval over images, in points. An order is ours only where the interval leaves out 0.",
}
ORDER_COLUMNS = ("lower in the paper", "than", "paper", "ours", "verdict")


def _table(
    title: str, names: Sequence[str], metrics: Metrics, found: Cells, paper: Mapping[str, Row]
) -> PageTable:
    rows = {row["method"]: row for row in metrics["rows"]}
    known = {key for name in names for key in paper.get(_paper_name(name), {})}
    published = {key: text for key, text in PAPER_TITLES.items() if key in known}
    cells = [
        [
            name_of(name),
            *(percent(key)(rows[name]) for key in CHAIR),
            f"{rows[name]['num_words']:.0f}",
            *(column.get(name, "-") for column in found.values()),
            *(_published(paper, name, key) for key in published),
        ]
        for name in names
    ]
    columns = ["method", *CHAIR.values(), "words", *found, *published.values()]
    return PageTable(title, NOTES[title], columns, cells)


def _published(paper: Mapping[str, Row], name: str, key: str) -> str:
    figures = paper.get(_paper_name(name), {})
    return f"{figures[key]:g}" if key in figures else "-"


CHAIR = {"chair_s": "CHAIRs", "chair_i": "CHAIRi", "recall": "recall", "repetition": "repetition"}
PAPER_TITLES = {
    "chair_s": "paper: CHAIRs",
    "chair_i": "paper: CHAIRi",
    "mmhal_score": "paper: MMHal",
    "mmhal_rate": "paper: MMHal rate",
    "amber_cover": "paper: AMBER cover",
}


def _paper_name(name: str) -> str:
    return name.partition("@")[0]


def order_cells(paired: Sequence[Row], paper: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Return a line for each pair that the paper orders: what we found, and whether it is the same."""
    names = dict.fromkeys(name for row in paired for name in (row["a"], row["b"]))
    published = {name: paper.get(_paper_name(name), {}).get("chair_s") for name in names}
    known = {name: figure for name, figure in published.items() if figure is not None}
    cells = []
    for a, b in itertools.permutations(known, 2):
        ours = difference(paired, a, b, "chair_s")
        if ours is None or known[a] >= known[b] or _mixed(a, b):
            continue
        low, high = (100 * bound for bound in ours["ci"])
        text = f"{100 * ours['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
        gap = f"{known[a] - known[b]:+.1f}"
        cells.append([name_of(a), name_of(b), gap, text, _verdict(low, high)])
    return cells


def _mixed(a: str, b: str) -> bool:
    """Return whether two rows are of different tables; probes of different sentences are not compared."""
    kinds = [name.partition("_")[0] if name.startswith(("sft_", "probe_")) else "" for name in (a, b)]
    numbers = [name.partition("@")[2] for name in (a, b)]
    return ("probe" in kinds and (kinds[0] != kinds[1] or numbers[0] != numbers[1])) or (
        "sft" in kinds and kinds[0] != kinds[1] and "greedy" not in (a, b)
    )


def _verdict(low: float, high: float) -> str:
    return "as in the paper" if high < 0 else "the other way round" if low > 0 else "not clear of 0"


def benchmark_cells(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the columns of AMBER, POPE and MMHal-Bench: by title, the cell of each row."""
    amber = {name: row["generative"] for name, row in found["amber"]["rows"].items()}
    pope, mmhal = found["pope"]["rows"], found["mmhal"]
    columns = {
        "amber_cover": {name: percent("cover")(row) for name, row in amber.items()},
        "amber_chair": {name: percent("chair")(row) for name, row in amber.items()},
        "pope_f1": {name: percent("f1")(row) for name, row in pope.items()},
        "mmhal_score": {name: _score(row) for name, row in mmhal.items()},
        "mmhal_rate": {name: percent("hallucination_rate")(row) for name, row in mmhal.items()},
    }
    return {TRUTH[key]: cells for key, cells in columns.items()}


def _score(row: Row) -> str:
    low, high = row["score_ci"]
    return f"{row['score']:.2f} [{low:.2f}, {high:.2f}]"


def _facts(config: ReproduceConfig, metrics: Metrics) -> dict[str, str]:
    on = "made from the world's truth" if config.model == "world" else "of their authors"
    mmhal = "the truth in place of a judge" if config.model == "world" else str(config.judge_model)
    return {
        "model": f"{config.model}, policy {config.policy}, reward {config.reward}",
        "size": f"{config.size}, seed {config.seed}; one seed of every learned part",
        "images": f"{config.num_train} to learn from, {config.num_sft} to tune on, {config.num_test} judged",
        "AMBER, MMHal-Bench": f"sets {on}; MMHal-Bench's ratings by {mmhal}",
        "POPE": "adversarial questions, answered by whether the caption names the object (offline POPE)",
        "reward centre": ", ".join(f"{name} {value:.3f}" for name, value in metrics["centres"].items()),
    }


def _plots(metrics: Metrics) -> list[Plot]:
    found = metrics["curves"]
    judged = [row for row in metrics["rows"] if row["num_generated_tokens"] is not None]
    plots = [curves.cost_plot([row for row in judged if not row["method"].startswith("probe_")])]
    return plots + ([curves.step_size_plot(found["step_size"])] if "step_size" in found else [])


def _against_greedy(paired: Sequence[Row]) -> list[Row]:
    return [row for row in paired if "greedy" in (row["a"], row["b"])]
