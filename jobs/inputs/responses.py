"""Responses of any generator to images, from JSON or JSON lines, as units for a reward actor."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.inputs.sources import Source
from visvm.metrics.image_ids import ImageIds, image_key
from visvm.storage.json_rows import CAPTION_KEYS, IMAGE_KEYS, first, read_json_rows

RESPONSES_KEYS = ("responses", "outputs", "completions", "choices", "candidates")
PROMPT_KEYS = ("prompt", "question", "instruction")
PLACEHOLDER = "<image>"  # of LLaVA's files: where the image stands in the prompt
SECTIONS = ("rollouts", "data", "results")
FINISH = {None: "stop", "stop": "stop", "eos": "stop", "eos_token": "stop", "end_turn": "stop"}
FINISH |= dict.fromkeys(("length", "max_tokens", "max_length"), "length")
logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Answered(NamedTuple):
    """An image by one of its names, a prompt, and the responses to it (keys of schemas.RESPONSE)."""

    image: str
    prompt: str
    responses: list[Row]


def read_responses(file: str, prompt: str) -> list[Answered]:
    """Return the responses of a file by image and prompt; ``prompt`` stands for one that a row lacks.

    Raises:
        ValueError: the file cannot be read, or a row is malformed: which one, and what was expected.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for place, row in read_json_rows(file, SECTIONS):
        try:
            image = image_key(first(row, IMAGE_KEYS))
            responses = [_response(one) for one in _given(row)]
        except ValueError as error:
            raise ValueError(f"{file} {place}: {error}") from None
        asked = str(first(row, PROMPT_KEYS) or prompt).replace(PLACEHOLDER, "").strip()
        found.setdefault((image, asked), []).extend(responses)
    if not found:
        raise ValueError(f"{file}: no responses in it")
    return [Answered(*key, responses) for key, responses in found.items()]


def _given(row: Row) -> list[Any]:
    """Return the responses of a row: a list, or the one that it holds itself."""
    many = first(row, RESPONSES_KEYS)
    if isinstance(many, list) and many:
        return many
    text = many if many is not None else first(row, CAPTION_KEYS)
    if not isinstance(text, str):
        keys = ", ".join((*RESPONSES_KEYS, *CAPTION_KEYS))
        raise ValueError(f"expected responses under one of {keys}: {row!r:.200}")
    return [{**{key: row[key] for key in ("finish_reason", "temperature") if key in row}, "text": text}]


def _response(one: Any) -> Row:
    given: Mapping[str, Any] = one if isinstance(one, Mapping) else {"text": one}
    message = given.get("message")
    text = first(
        {**given, **(message if isinstance(message, Mapping) else {})}, ("text", "content", *CAPTION_KEYS)
    )
    if not isinstance(text, str):
        raise ValueError(f"expected the text of a response, got {one!r:.200}")
    reason = given.get("finish_reason")
    if reason not in FINISH:
        raise ValueError(f"finish_reason = {reason!r}: expected one of {', '.join(filter(None, FINISH))}")
    tokens = given.get("token_ids")
    count = given.get("num_tokens", len(tokens) if isinstance(tokens, list) else None)
    return {
        "text": text,
        "finish_reason": FINISH[reason],
        "temperature": given.get("temperature"),
        "num_tokens": count,
    }


def make_units(answered: Sequence[Answered], sources: Sequence[Source], schema: pa.Schema) -> pa.Table:
    """Return a table of ``schema`` with a row per image and prompt; a row of an unknown image has an error.

    An id follows from the image, the prompt and the responses, so other responses are another unit.

    Raises:
        ValueError: no response is to an image of ``sources``.
    """
    rows = list(_rows(answered, sources))
    unknown = [row["error"] for row in rows if row.get("error")]
    if len(unknown) == len(rows):
        raise ValueError(f"no response is to one of the {len(sources)} images: {unknown[0]}")
    unused = len(sources) - len({row["image_id"] for row in rows if not row.get("error")})
    if unknown or unused:
        logger.warning(
            "%d of %d rows name no image; %d images have no response", len(unknown), len(rows), unused
        )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["id"]), schema=schema)


def _rows(answered: Sequence[Answered], sources: Sequence[Source]) -> Iterator[Row]:
    known, ids = {source.image_id: source for source in sources}, ImageIds()
    for source in sources:
        ids.add(source.image_id, _file_name(source))
    merged: dict[tuple[str, str], Row] = {}
    for image, prompt, responses in answered:
        try:
            image_id = image_key(ids.resolve(image))
            row: Row = {**known[image_id]._asdict()}
        except KeyError:
            row = {"image_id": image, "uri": image, "error": f"{image}: no such image", "stage": "read"}
        except ValueError as error:
            row = {"image_id": image, "uri": image, "error": str(error), "stage": "read"}
        row = merged.setdefault((row["image_id"], prompt), {**row, "prompt": prompt, "responses": []})
        row["responses"] += responses
    for row in merged.values():
        digest = hashlib.sha256(json.dumps([row["prompt"], row["responses"]]).encode()).hexdigest()
        yield {"id": f"{row['image_id']}-{digest[:8]}", **row}


def _file_name(source: Source) -> str:
    """Return the path of an image's file; a part of a file has none but its id."""
    return source.image_id if "#" in source.uri else source.uri
