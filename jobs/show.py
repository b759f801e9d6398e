"""Show what a run wrote: captions with every choice, rollouts with their rewards, or a table of results.

visvm show runs/captions
visvm show runs/captions --html runs/captions.html --num 50
visvm show runs/triples --num 2
visvm show runs/evaluation
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.runner.command import run
from visvm import storage
from visvm.config import Config

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]
KINDS = {"captions": ("caption", "captions"), "rollouts": ("rollout", "rollouts")}


class ShowConfig(Config):
    """Configuration of show: which run, how much of it, and where."""

    folder: str = Field(
        description="run folder of caption, generate-triples, evaluate or demo",
        json_schema_extra={"positional": True},
    )
    num: int = Field(10, ge=1, description="images to show, the first ones")
    trace: bool = Field(True, description="show the candidates of every step too")
    html: str | None = Field(None, description="write one self-contained page there instead")


def work(config: ShowConfig) -> dict[str, Any]:
    """Show the run, or write its page."""
    folder = storage.absolute(config.folder)
    kind, results = _find(folder)
    if config.html:
        page = storage.absolute(config.html)
        storage.write(page, _page(folder, kind, results, config.num))
        print(f"result: {page}")
        return {}
    from rich.console import Console

    console = Console(highlight=False)
    if results:
        _print_results(results)
    if kind:
        _print_rows(console, folder, kind, config)
    return {}


def _find(folder: str) -> tuple[str | None, Row]:
    """Return what the folder holds: the kind of its rows, and its results if it has a table of them.

    Raises:
        ValueError: it is not a folder, or holds neither.
    """
    from jobs.runner.run_folder import read_json

    if not storage.is_folder(folder):
        raise ValueError(f"{folder}: no such run folder")
    kind = next((name for name in KINDS if storage.names(storage.join(folder, name), "part-*.parquet")), None)
    metrics = storage.join(folder, "metrics.json")
    results = read_json(metrics) if storage.exists(metrics) else {}
    results = results if isinstance(results, dict) and "rows" in results else {}
    if kind is None and not results:
        raise ValueError(f"{folder}: holds no captions, rollouts or results to show")
    return kind, results


def _rows(folder: str, kind: str, num: int) -> tuple[list[Row], int]:
    """Return the rows of the first ``num`` images by their ids, and how many rows there are."""
    from jobs.runner.part_files import read_rows

    rows = sorted(read_rows(storage.join(folder, kind)), key=lambda row: row["id"])
    first = set(islice(dict.fromkeys(row["image_id"] for row in rows), num))
    return [row for row in rows if row["image_id"] in first], len(rows)


def _print_rows(console: Console, folder: str, kind: str, config: ShowConfig) -> None:
    from visvm.report import terminal

    rows, num_all = _rows(folder, kind, config.num)
    for row in rows:
        tree = (
            terminal.caption_tree(row, trace=config.trace)
            if kind == "captions"
            else terminal.rollout_tree(row)
        )
        console.print(tree)
    print(f"{terminal.shown_of(len(rows), num_all, KINDS[kind])} of {folder}")


def _print_results(results: Row) -> None:
    from visvm.report import paired_table, results_table

    print(results_table(results["rows"]))
    if results.get("paired"):
        print("\n" + paired_table(results["paired"]))


def _page(folder: str, kind: str | None, results: Row, num: int) -> str:
    """Return the run as HTML: the table of results if it has one, and the cards of the first images."""
    from visvm.report import Report, ReportExample, render

    if kind == "rollouts":
        raise ValueError("--html shows captions and results; rollouts are shown in the terminal")
    rows, num_all = _rows(folder, kind, num) if kind else ([], 0)
    captions: dict[str, list[Row]] = {}
    for row in rows:
        captions.setdefault(row["image_id"], []).append(row)
    examples = [
        ReportExample(found[0]["uri"], None, {_label(row, found): row for row in found})
        for found in captions.values()
    ]
    facts = {"run": folder} | ({"captions": f"{len(rows)} of {num_all}"} if kind else {})
    table, paired = results.get("rows", []), results.get("paired", [])
    return render(Report("visvm: a run", facts, table, paired, [], examples))


def _label(row: Row, found: Sequence[Row]) -> str:
    """Return what a caption of an image is called: its method, and its prompt where there are several."""
    return row["method"] if len(found) == 1 else f"{row['method']}: {row['prompt']}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return the exit status."""
    return run(ShowConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
