"""show: the captions, rollouts and results of a run, in the terminal or as a page."""

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import show
from tests.support import tiny
from visvm import storage
from visvm.schemas import CAPTIONS, ROLLOUTS


def candidate(text: str, value: float, reason: str = "sentence") -> dict[str, Any]:
    return {"text": text, "temperature": 0.5, "value": value, "num_tokens": 3, "finish_reason": reason}


def caption(image: Path, number: int) -> dict[str, Any]:
    dog, cat = candidate("A dog <sits>.", 0.75), candidate("A cat.", 0.25, "stop")
    return {
        "id": f"{number}-x",
        "image_id": f"image{number}",
        "uri": str(image),
        "content_hash": "0",
        "prompt": "Describe.",
        "method": "visvm",
        "caption": "A dog <sits>.",
        "sentences": ["A dog <sits>."],
        "values": [0.75],
        "finish_reason": "stop",
        "trace": [{"candidates": [cat, dog, dog], "choice": 1}],
        "num_generated_tokens": 9,
        "num_value_calls": 3,
        "seconds": 0.5,
    }


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    tiny.image(0).pil.save(tmp_path / "image.png")
    rows = [caption(tmp_path / "image.png", i) for i in range(3)]
    rows[2]["uri"] = str(tmp_path / "gone.png")
    folder = tmp_path / "run"
    table = pa.Table.from_pylist(rows, schema=CAPTIONS)
    storage.write_table(str(folder / "captions" / "part-00000.parquet"), table)
    return folder


def test_captions_are_shown_with_equal_candidates_merged(
    captions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main([str(captions), "--num", "2"]) == 0
    out = capsys.readouterr().out
    assert "image0" in out and "image1" in out and "image2" not in out and "2 of 3 captions" in out
    lines = [line.strip(" │└├─") for line in out.splitlines()]
    assert lines.count(">    0.750  A dog <sits>. x2") == 2 and lines.count("0.250  A cat.  [ends]") == 2
    assert show.main([str(captions), "--no-trace"]) == 0
    assert "0.750" not in capsys.readouterr().out


def test_a_page_needs_no_other_file_and_survives_a_lost_image(captions: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert show.main([str(captions), "--html", str(page)]) == 0
    text = page.read_text()
    image = base64.b64encode((tmp_path / "image.png").read_bytes()).decode()
    assert text.count(image) == 2 and text.count("<img") == 2 and text.count('class="example"') == 3
    assert "A dog &lt;sits&gt;." in text and "0.750" in text and "3 of 3" in text
    assert "In the image" not in text and "CHAIRs" not in text


def test_rollouts_are_shown_with_their_rewards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    response = {"temperature": 0.5, "seed": 0, "text": "A. B.", "sentences": ["A.", " B."]}
    response |= {"rewards": [0.125, 0.5], "num_tokens": 2, "finish_reason": "stop"}
    row = {"id": "1", "image_id": "7", "uri": "7.png", "content_hash": "0", "prompt": "Say."}
    table = pa.Table.from_pylist([{**row, "responses": [response]}], schema=ROLLOUTS)
    storage.write_table(str(tmp_path / "rollouts" / "part-00000.parquet"), table)
    assert show.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0.125  A." in out and "0.500  B." in out and "1 of 1 rollout" in out
    assert show.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2


def test_results_are_shown_as_their_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"chair_s": 0.25, "chair_i": 0.1, "recall": 0.5, "num_sentences": 4.0, "num_words": 20.0}
    costs = {"num_generated_tokens": None, "num_value_calls": None, "seconds_per_caption": None}
    results = {"rows": [{"method": "greedy", **numbers, **costs}], "paired": []}
    (tmp_path / "metrics.json").write_text(json.dumps(results))
    assert show.main([str(tmp_path)]) == 0
    assert "greedy" in (out := capsys.readouterr().out) and "25.0" in out
    assert show.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    assert "25.0" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("folder", "message"), [("missing", "no such run folder"), (".", "holds no captions")]
)
def test_what_is_no_run_is_refused(
    folder: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main([str(tmp_path / folder)]) == 2
    assert message in capsys.readouterr().err
