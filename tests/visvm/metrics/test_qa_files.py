"""Questions and answers in the formats of several benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from visvm.metrics.qa_files import ImageQuestion, read_answers, read_questions


def write(folder: Path, text: str) -> str:
    path = folder / "file.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 7, "image": "a.jpg", "query": "Is it?"}]',
        '{"question_id": 7, "image": "a.jpg", "text": "Is it?", "label": "yes"}\n\n',
        '\ufeff[{"id": "7", "image_src": "a.jpg", "question": "Is it?"}]',
    ],
)
def test_questions_of_three_benchmarks(tmp_path: Path, text: str) -> None:
    assert read_questions(write(tmp_path, text)) == [ImageQuestion("7", "a.jpg", "Is it?")]


def test_answers_go_by_id_or_by_order(tmp_path: Path) -> None:
    assert read_answers(write(tmp_path, '[{"id": 3, "response": "No"}]')) == [("3", "No")]
    lines = '{"question": "?", "answer": "Yes"}\n{"question": "?", "answer": "No"}\n'
    assert read_answers(write(tmp_path, lines)) == [("0", "Yes"), ("1", "No")]
    write(tmp_path, "")
    (tmp_path / "answers.jsonl").write_text('{"id": "x", "answer": "Yes"}\n')
    assert read_answers(str(tmp_path)) == [("x", "Yes")]


def test_a_question_is_asked_once(tmp_path: Path) -> None:
    entry = '{"id": 1, "image": "a.jpg", "text": "Is it?"}'
    with pytest.raises(ValueError, match="two entries have the id '1'"):
        read_questions(write(tmp_path, f"[{entry}, {entry}]"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "nothing in it"),
        ("[]", "nothing in it"),
        ("[3]", "entry 0 must be an object"),
        ('{"id": 1, "answer": "a"}\n{"id": ', "line 2 is no JSON"),
        ('[{"id": 1}]', "entry 0 needs answer or response or model_answer"),
        ('[{"id": 1, "answer": 3}]', "entry 0 needs answer"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_answers(write(tmp_path, text))
