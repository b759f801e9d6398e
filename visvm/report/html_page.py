"""The report as one HTML file: tables, curves, and captions with the candidates of every step."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from visvm import images
from visvm.metrics.chair import chair
from visvm.report.leaderboard import PageTable
from visvm.report.plots import Plot, to_svg
from visvm.report.table import COLUMNS, DIFFERENCES, Row, at_equal_length, cells, name_of, paired_cells


@dataclass(frozen=True)
class ReportExample:
    """An image (path or URI), each method's caption (a row of ``CAPTIONS``), and the categories if known."""

    image: str
    truth: frozenset[str] | None
    captions: Mapping[str, Row]


@dataclass(frozen=True)
class Report:
    """The contents of the page; ``rows`` and ``paired`` are those of ``metrics.evaluate``.

    ``tables`` come first; the leaderboard is one of them.
    """

    title: str
    facts: Mapping[str, str]
    rows: Sequence[Row]
    paired: Sequence[Row]
    plots: Sequence[Plot]
    examples: Sequence[ReportExample]
    tables: Sequence[PageTable] = ()


def render(report: Report) -> str:
    """Render the report as HTML that needs no other file."""
    environment = Environment(
        loader=PackageLoader("visvm.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        report=report,
        columns=[column.title for column in COLUMNS],
        table=cells(report.rows),
        differences=list(DIFFERENCES.values()),
        paired=paired_cells(report.paired),
        equal_length=paired_cells(at_equal_length(report.paired)),
        plots=[to_svg(plot) for plot in report.plots],
        examples=[_example(example) for example in report.examples],
    )


def _example(example: ReportExample) -> dict[str, Any]:
    return {
        "image": _data_url(example.image),
        "truth": None if example.truth is None else sorted(example.truth),
        "captions": [
            {
                "name": name_of(method),
                "sentences": [_sentence(text, example.truth) for text in row["sentences"]],
                "steps": [_step(step, example.truth) for step in row["trace"]],
            }
            for method, row in example.captions.items()
        ],
    }


def _step(step: Row, truth: Iterable[str] | None) -> list[dict[str, Any]]:
    """Return the distinct candidates of a step, the best value first."""
    choice = step["candidates"][step["choice"]]["text"]
    unique = {candidate["text"]: candidate for candidate in reversed(step["candidates"])}
    return [
        _sentence(candidate["text"], truth)
        | {
            "value": f"{candidate['value']:.3f}",
            "chosen": candidate["text"] == choice,
            "ends": candidate["finish_reason"] != "sentence",
        }
        for candidate in sorted(unique.values(), key=lambda one: -one["value"])
    ]


def _sentence(text: str, truth: Iterable[str] | None) -> dict[str, Any]:
    wrong = [] if truth is None else sorted(set(chair(text, truth).hallucinated))
    return {"text": text.strip(), "wrong": wrong}


def _data_url(uri: str) -> str | None:
    """Return the image as a data: URL, or None if it is not where it was."""
    try:
        data = images.read(uri)
    except ValueError:
        return None
    kind = mimetypes.guess_type(uri)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
