"""Captions as they are given to a job: a run folder, parquet, or JSON as other programs write it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from jobs.runner.run_folder import is_complete
from visvm import storage
from visvm.metrics.image_ids import image_key
from visvm.storage.json_rows import CAPTION_KEYS, IMAGE_KEYS, first, read_json_rows
from visvm.tables import table_files

COLUMNS = (
    *("image_id", "caption", "sentences", "values", "prompt", "method", "finish_reason"),
    *("num_generated_tokens", "num_value_calls", "seconds"),
)
SECTIONS = ("annotations", "captions", "results", "data")
PARQUET = b"PAR1"
logger = logging.getLogger(__name__)

Row = dict[str, Any]


def read_captions(sources: Iterable[str]) -> dict[str, list[Row]]:
    """Return the captions of each [NAME=]PATH by its name: NAME, the run's method or the file's.

    Raises:
        ValueError: nothing there, malformed (which caption, what was expected), or two with one name.
    """
    captions: dict[str, list[Row]] = {}
    for source in sources:
        given, path = parse_source(source)
        rows = read_rows(path)
        name = given or rows[0].get("method") or PurePosixPath(path).stem
        if name in captions:
            raise ValueError(f"two of the captions are called {name!r}: tell them apart by NAME=PATH")
        captions[name] = rows
    return captions


def parse_source(source: str) -> tuple[str | None, str]:
    """Return the name and the path of [NAME=]PATH."""
    name, equals, path = source.partition("=")
    is_file = not storage.is_remote(path) and storage.exists(source)  # with "=" in its name
    if not equals or "/" in name or is_file:
        return None, storage.absolute(source)
    return name, storage.absolute(path)


def read_rows(path: str) -> list[Row]:
    """Return the captions at one place as rows with image_id, caption and what else is known.

    Raises:
        ValueError: nothing there, or malformed: which caption, and what was expected.
    """
    if storage.is_folder(path) or _begins_with(path, PARQUET):
        rows = [_caption(path, f"caption {i}", row) for i, row in enumerate(_table(path))]
    else:
        rows = [_caption(path, place, row) for place, row in read_json_rows(path, SECTIONS)]
    if not rows:
        raise ValueError(f"{path}: no captions in it")
    return rows


def _begins_with(path: str, magic: bytes) -> bool:
    try:
        return storage.read(path, len(magic)) == magic
    except OSError as error:
        raise ValueError(f"cannot read captions {path}: {error}") from None


def _table(path: str) -> Iterable[Row]:
    """Yield the rows of a run or a parquet file; columns that captions do not have are not read."""
    import pyarrow as pa

    wanted = {*COLUMNS, *IMAGE_KEYS, *CAPTION_KEYS}
    if storage.exists(storage.join(path, "config.yaml")) and not is_complete(path):
        logger.warning("%s is not complete: its captions so far are judged", path)
    for file in table_files(path, "captions"):
        try:
            names = [name for name in storage.parquet(file).schema_arrow.names if name in wanted]
            yield from storage.read_table(file, names).to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"cannot read captions from {file}: {str(error).splitlines()[0]}") from None


def _caption(path: str, place: str, row: Row) -> Row:
    image_id, caption = (first(row, keys) for keys in (IMAGE_KEYS, CAPTION_KEYS))
    try:
        image_key(image_id)
    except ValueError as error:
        raise ValueError(f"{path} {place}: {error}; expected one of {', '.join(IMAGE_KEYS)}") from None
    if not isinstance(caption, str):
        expected = f"expected a caption as text under one of {', '.join(CAPTION_KEYS)}"
        raise ValueError(f"{path} {place}: {expected}, got {row!r:.200}")
    return {**row, "image_id": image_id, "caption": caption}
