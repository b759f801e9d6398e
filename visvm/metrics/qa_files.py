"""Questions about images and answers to them, in the formats of AMBER, POPE and MMHal-Bench."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visvm import storage

IDS = ("question_id", "id")
IMAGES = ("image", "image_src")
TEXTS = ("text", "query", "question")
ANSWERS = ("answer", "response", "model_answer")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class ImageQuestion:
    """A question about an image, which is named by its file."""

    id: str
    image: str
    text: str


def read_records(path: str) -> list[dict[str, Any]]:
    """Read a JSON list of objects, or JSON lines; of a folder its answers.jsonl.

    Raises:
        ValueError: unreadable, or something else in it (which line).
    """
    file = storage.join(path, "answers.jsonl") if storage.is_folder(path) else path
    try:
        text = storage.read(file).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
    records = _parse(file, text)
    for i, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{file}: entry {i} must be an object, got {record!r:.100}")
    if not records:
        raise ValueError(f"{file}: nothing in it")
    return records


def read_questions(path: str) -> list[ImageQuestion]:
    """Read questions with an id (else their index), an image and a text.

    Raises:
        ValueError: unreadable, or an entry without image or text (which), or two with one id.
    """
    questions = [
        ImageQuestion(id_of(record, i), _needed(path, i, record, IMAGES), _needed(path, i, record, TEXTS))
        for i, record in enumerate(read_records(path))
    ]
    _check_unique(path, [question.id for question in questions])
    return questions


def read_answers(path: str) -> list[tuple[str, str]]:
    """Read (id of the question, else the entry's index; answer) of a model, in order.

    A question may be answered several times.

    Raises:
        ValueError: unreadable, or an entry without an answer (which).
    """
    return [
        (id_of(record, i), _needed(path, i, record, ANSWERS)) for i, record in enumerate(read_records(path))
    ]


def id_of(record: Record, index: int) -> str:
    """Return the id of an entry as text, or its index from 0 where it has none."""
    return str(next((record[key] for key in IDS if record.get(key) is not None), index))


def _parse(file: str, text: str) -> list[Any]:
    try:
        data = json.loads(text)
        return data if isinstance(data, list) else [data]
    except ValueError:
        pass
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            records += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{file}: line {number} is no JSON ({error}), nor is the whole file") from None
    return records


def _needed(path: str, index: int, record: Record, keys: Sequence[str]) -> str:
    value = next((record[key] for key in keys if isinstance(record.get(key), str)), None)
    if value is None:
        raise ValueError(f"{path}: entry {index} needs {' or '.join(keys)} (text), got {record!r:.200}")
    return value


def _check_unique(path: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise ValueError(f"{path}: two entries have the id {one!r}")
        seen.add(one)
