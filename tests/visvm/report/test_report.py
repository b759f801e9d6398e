"""The report: tables, curves and the page."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from visvm.report import (
    Plot,
    Report,
    ReportExample,
    Series,
    at_equal_length,
    paired_table,
    render,
    results_table,
    to_svg,
)

ROW = {
    "method": "visvm",
    "num_images": 10,
    "chair_s": 0.262,
    "chair_s_ci": [0.2, 0.31],
    "chair_i": 0.046,
    "chair_i_ci": [0.03, 0.06],
    "recall": 0.7,
    "num_sentences": 6.5,
    "num_words": 60.0,
    "num_generated_tokens": 900.4,
    "num_value_calls": 36.0,
    "seconds_per_caption": 0.25,
}
PAIRED = {"a": "visvm", "b": "greedy", "metric": "chair_s", "difference": -0.062, "ci": [-0.1, -0.02]}


def candidate(text: str, value: float, *, reason: str = "sentence") -> dict:
    return {"text": text, "temperature": 0.1, "value": value, "num_tokens": 5, "finish_reason": reason}


def test_results_are_percentages_with_intervals() -> None:
    titles, _, line = results_table([ROW]).splitlines()
    assert titles.split()[:4] == ["method", "n", "CHAIRs", "CHAIRi"]
    assert "26.2 [20.0, 31.0]" in line
    assert "70.0" in line and "900" in line and "VisVM" in line


def test_columns_line_up() -> None:
    lines = results_table([ROW, ROW | {"method": "greedy", "num_words": 7.0}]).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_differences_are_percentage_points_or_counts() -> None:
    text = paired_table([PAIRED, PAIRED | {"metric": "num_words", "difference": 0.5, "ci": [0.0, 1.0]}])
    assert len(text.splitlines()) == 3
    assert "-6.2 [-10.0, -2.0]" in text
    assert "+0.5 [+0.0, +1.0]" in text


def test_differences_at_equal_length_mark_an_extrapolation() -> None:
    controlled = {"difference": -0.02, "ci": [-0.05, 0.01], "per_word": 0.001, "extrapolated": True}
    rows = at_equal_length([PAIRED | {"at_equal_length": controlled}, PAIRED | {"metric": "num_words"}])
    assert "-2.0 [-5.0, +1.0]*" in paired_table(rows)
    assert len(rows) == 1


def test_an_unknown_number_is_a_dash() -> None:
    assert results_table([ROW | {"num_value_calls": None}]).splitlines()[-1].split()[-2] == "-"


def test_equal_plots_give_equal_svg() -> None:
    plot = Plot("Loss", "step", "loss", [Series("a", [1, 2], [3.0, 2.0], low=[2, 1], high=[4, 3])])
    assert to_svg(plot).startswith("<svg")
    assert to_svg(plot) == to_svg(plot)
    assert "Loss" in to_svg(plot)


def test_the_page_shows_choices_and_marks_hallucinations(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    step = {"candidates": [candidate(" A dog.", 0.25), candidate(" A <b>cat</b>.", 0.5, reason="stop")]}
    row = {"sentences": [" A dog."], "trace": [step | {"choice": 0}]}
    greedy = {"sentences": [" A cat."], "trace": []}
    example = ReportExample(str(tmp_path / "1.png"), frozenset({"cat"}), {"visvm": row, "greedy": greedy})
    plot = Plot("Loss", "step", "loss", [Series("a", [1, 2], [3.0, 2.0])])
    page = render(Report("Demo", {"images": "10"}, [ROW], [PAIRED], [plot], [example]))
    assert "data:image/png;base64," in page and "<svg" in page
    assert "not there: dog" in page and "not there: cat" not in page
    assert "&lt;b&gt;cat" in page and "<b>cat" not in page
    assert page.index('value">0.500') < page.index('value">0.250')
    assert 'class="chosen"><span class="value">0.250' in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
