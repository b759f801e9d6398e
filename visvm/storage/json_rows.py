"""Rows of JSON files as programs of the field write them: the content says how a file is read.

A list of objects, an object with such a list, or one object a line; UTF-8, 16 or 32, with or without a
byte order mark; compressed by gzip or not.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from visvm import storage

GZIP = b"\x1f\x8b"
# What programs of the field call an image and a text about it; the first of these that a row has counts.
# "text" is the question where there is an answer.
IMAGE_KEYS = ("image_id", "image", "image_path", "file_name", "uri")
CAPTION_KEYS = ("caption", "answer", "response", "output", "text")


class JsonRow(NamedTuple):
    """An object of a file, and its place in it ("line 3", "annotations[2]")."""

    place: str
    value: dict[str, Any]


def read_text(uri: str) -> str:
    """Return the text of a file, decompressed and decoded as its first bytes ask for.

    Raises:
        ValueError: it cannot be read or is no text.
    """
    try:
        data = storage.read(uri)
        data = gzip.decompress(data) if data.startswith(GZIP) else data
        return data.decode(json.detect_encoding(data))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {uri}: {error}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{uri} line {line}: no text in {error.encoding} ({error.reason})") from None


def read_json(uri: str) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: it cannot be read, or is not JSON: the line, and what is wrong.
    """
    try:
        return json.loads(read_text(uri))
    except json.JSONDecodeError as error:
        raise ValueError(f"{uri} line {error.lineno}: not JSON: {error.msg}") from None


def read_json_rows(uri: str, sections: Sequence[str]) -> Iterator[JsonRow]:
    """Yield the objects of a list, of one of the lists ``sections`` of an object, or of lines.

    Raises:
        ValueError: it cannot be read, or holds something else: the line or place, and what was expected.
    """
    text = read_text(uri)
    try:
        whole = json.loads(text)
    except json.JSONDecodeError as error:
        yield from _lines(uri, text, error)
        return
    section = next((name for name in sections if isinstance(whole, dict) and name in whole), "")
    rows = whole[section] if section else whole
    if isinstance(rows, dict) and not section:
        rows, section = [rows], "object "
    if not isinstance(rows, list):
        raise ValueError(f"{uri}: expected {_expected(sections)}; it is a {type(rows).__name__}")
    for i, row in enumerate(rows):
        yield _checked(uri, f"{section}[{i}]", row)


def first(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """Return the value of the first of ``keys`` that a row has; None if it has none."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _lines(uri: str, text: str, whole: json.JSONDecodeError) -> Iterator[JsonRow]:
    """Yield the object of each line; ``whole`` is why the text is not one JSON value."""
    first = True
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problem = (whole.lineno, whole.msg) if first else (number, error.msg)
            raise ValueError(f"{uri} line {problem[0]}: neither JSON nor JSON lines: {problem[1]}") from None
        yield _checked(uri, f"line {number}", value)
        first = False


def _checked(uri: str, place: str, value: Any) -> JsonRow:
    if not isinstance(value, dict):
        raise ValueError(f"{uri} {place}: expected an object {{...}}, got {value!r:.100}")
    return JsonRow(place, value)


def _expected(sections: Sequence[str]) -> str:
    named = " or ".join(f'{{"{name}": [...]}}' for name in sections)
    return f"a list of objects, one object a line, or {named}"
