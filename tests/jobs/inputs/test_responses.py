"""Responses as generators write them, joined to their images without a wrong join."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.batch.generate import ROLLED
from jobs.inputs.responses import Answered, make_units, read_responses
from jobs.inputs.sources import Source

PROMPT = "Describe it."


def read(tmp_path: Path, *rows: Any) -> list[Answered]:
    file = tmp_path / "responses.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return read_responses(str(file), PROMPT)


@pytest.mark.parametrize(
    "row",
    [
        {"image": "a.jpg", "responses": ["A cat.", "A dog."]},
        {"image_id": "a.jpg", "prompt": PROMPT, "outputs": [{"text": "A cat."}, {"text": "A dog."}]},
        {"image": "a.jpg", "prompt": f"<image>\n{PROMPT}", "responses": ["A cat.", "A dog."]},
        {
            "image": "a.jpg",
            "choices": [{"message": {"content": "A cat."}}, {"message": {"content": "A dog."}}],
        },
    ],
)
def test_forms_of_a_row(row: Any, tmp_path: Path) -> None:
    [answered] = read(tmp_path, row)
    assert (answered.image, answered.prompt) == ("a.jpg", PROMPT)
    assert [one["text"] for one in answered.responses] == ["A cat.", "A dog."]
    assert [one["finish_reason"] for one in answered.responses] == ["stop", "stop"]


def test_rows_of_one_image_and_prompt_join(tmp_path: Path) -> None:
    rows = [
        {"image": 42, "question": "What?", "response": "One.", "finish_reason": "max_tokens"},
        {"image": 42.0, "question": "What?", "caption": "Two.", "temperature": 0.5},
        {"image": 42, "question": "Why?", "responses": [{"text": "Three.", "token_ids": [1, 2]}]},
    ]
    what, why = read(tmp_path, *rows)
    assert (what.image, what.prompt, why.prompt) == ("42", "What?", "Why?")
    assert [(one["text"], one["finish_reason"], one["temperature"]) for one in what.responses] == [
        ("One.", "length", None),
        ("Two.", "stop", 0.5),
    ]
    assert why.responses[0]["num_tokens"] == 2


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"responses": ["A cat."]}, "an image id must be"),
        ({"image": "a.jpg"}, "expected responses under one of responses, "),
        ({"image": "a.jpg", "responses": []}, "expected responses under one of"),
        ({"image": "a.jpg", "responses": [3]}, "expected the text of a response, got 3"),
        (
            {"image": "a.jpg", "responses": [{"text": "A.", "finish_reason": "abort"}]},
            "finish_reason = 'abort'",
        ),
        (["a.jpg"], "expected an object"),
    ],
)
def test_a_broken_row_is_named(row: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"responses\.jsonl line 2:? .*{problem}"):
        read(tmp_path, {"image": "a.jpg", "responses": ["A cat."]}, row)


SOURCES = [
    Source("day/cam.jpg", "/data/day/cam.jpg"),
    Source("night/cam.jpg", "/data/night/cam.jpg"),
    Source("42", "/data/val2014/COCO_val2014_000000000042.jpg"),
]


def units(*images: str) -> list[dict[str, Any]]:
    answered = [Answered(image, PROMPT, [{"text": "A cat."}]) for image in images]
    return make_units(answered, SOURCES, ROLLED).to_pylist()


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("day/cam.jpg", "day/cam.jpg"),
        ("/data/night/cam.jpg", "night/cam.jpg"),
        ("night\\cam.jpg", "night/cam.jpg"),
        ("000000000042", "42"),
        ("COCO_val2014_000000000042.jpg", "42"),
    ],
)
def test_any_name_of_an_image_finds_it(name: str, image_id: str) -> None:
    [row] = units(name)
    assert (row["image_id"], row["error"]) == (image_id, None)
    assert row["uri"] == {source.image_id: source.uri for source in SOURCES}[image_id]


def test_names_that_mean_no_image_or_two_are_error_rows() -> None:
    rows = {row["image_id"]: row["error"] for row in units("day/cam.jpg", "cam.jpg", "other.jpg")}
    assert rows["day/cam.jpg"] is None
    assert "may mean" in rows["cam.jpg"] and rows["other.jpg"] == "other.jpg: no such image"
    with pytest.raises(ValueError, match=r"no response is to one of the 3 images: other\.jpg"):
        units("other.jpg")


def test_two_names_of_one_image_are_one_unit_and_other_responses_another() -> None:
    [row] = units("42", "COCO_val2014_000000000042.jpg")
    assert len(row["responses"]) == 2
    assert units("42")[0]["id"] != row["id"]
