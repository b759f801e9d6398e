"""The amber and data verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import amber, data
from visvm.metrics import amber as metric

ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
    {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 3, "type": "discriminative-attribute-state", "truth": "yes"},
]
QUERIES = [{"id": i, "image": "AMBER_1.jpg", "query": "?"} for i in (1, 2, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "AMBER" / "data"
    (place / "query").mkdir(parents=True)
    (place / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (place / "query" / "query_all.json").write_text(json.dumps(QUERIES))
    (place / "relation.json").write_text(json.dumps({"dog": ["puppy"], "cat": []}))
    (place / "safe_words.txt").write_text("light\n")
    return tmp_path / "AMBER"


@pytest.fixture(autouse=True)
def no_tagger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every word is a noun: what the tagger does is tested where its data is."""
    monkeypatch.setattr(metric, "nouns", str.split)


def run(folder: Path, *answers: list[dict[str, Any]], code: int = 0, flags: tuple[str, ...] = ()) -> Any:
    files = []
    for i, one in enumerate(answers):
        path = folder.parent / f"model{i}.json"
        path.write_text(json.dumps(one))
        files.append(str(path))
    out = folder.parent / "out"
    given = ["--answers", *files, "--amber", str(folder), "--out", str(out), *flags]
    assert amber.main(given) == code
    return json.loads((out / "metrics.json").read_text()) if code == 0 else None


def test_two_models_with_their_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"id": 1, "response": "puppy"}, {"id": 2, "response": "No"}, {"id": 3, "response": "Yes"}]
    bad = [{"id": 1, "response": "dog cat"}, {"id": 2, "response": "Yes"}, {"id": 3, "response": "Maybe"}]
    metrics = run(folder, good, bad)
    first, second = metrics["rows"]["model0"], metrics["rows"]["model1"]
    assert (first["generative"]["chair"], second["generative"]["chair"]) == (0, 0.5)
    assert second["generative"]["cog"] == 1
    assert (first["discriminative"]["all"]["accuracy"], second["discriminative"]["all"]["unparsed"]) == (
        1,
        0.5,
    )
    assert first["generative"]["words_compared"] == "exact words only"
    [difference] = metrics["paired"]
    assert (difference["a"], difference["generative"]["chair"]["difference"]) == ("model1", 0.5)
    assert "50.0 [50.0, 50.0]" in capsys.readouterr().out


def test_a_table_of_similar_words(folder: Path) -> None:
    table = folder.parent / "similar.json"
    table.write_text(json.dumps({"pairs": [["cat", "dog"]]}))
    metrics = run(folder, [{"id": 1, "response": "cat"}], flags=("--similar", str(table)))
    found = metrics["rows"]["model0"]["generative"]
    assert (found["chair"], found["cover"], found["words_compared"]) == (0, 1, "similar words")
    assert metrics["rows"]["model0"]["discriminative"] == {}


def test_answers_to_other_questions_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, [{"id": 99, "response": "dog"}], code=2)
    assert "1 ids are not AMBER's, such as '99'" in capsys.readouterr().err


def test_a_missing_file_of_the_benchmark_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / "relation.json").unlink()
    run(folder, [{"id": 1, "response": "dog"}], code=2)
    assert "relation.json" in capsys.readouterr().err


def test_what_nltk_lacks_is_said_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert data.main(["nltk", str(tmp_path / "data"), "--source", str(tmp_path / "empty")]) == 2
    said = capsys.readouterr().err
    assert "averaged_perceptron_tagger_eng: not installed" in said
    assert "python -m nltk.downloader" in said


def test_a_mistyped_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["nltl"]) == 2
    assert "did you mean nltk?" in capsys.readouterr().err
