"""Images of parquet files and of JSON files: rows with an id and an image or where it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from jobs.inputs.sources.base import ID_KEYS, Source, id_or
from visvm import storage
from visvm.images import URI_COLUMNS
from visvm.storage.json_rows import read_json_rows

DATA_COLUMNS = ("image", "bytes", "jpg", "png", "img")
FILE_KEYS = ("file_name", "image", "path", "uri", "image_path")


def parquet_sources(file: str, called: str) -> Iterator[Source]:
    """Yield the image of every row: its bytes, or the file that a path or URI names.

    A row without an id goes by what the file is ``called``, and its number.

    Where there is a column for bytes it counts; ``visvm.images.read`` follows the path where it is empty.

    Raises:
        ValueError: the file cannot be read, or has no such column.
    """
    try:
        table = storage.parquet(file)
        schema = table.schema_arrow
        columns = {name: schema.field(name).type for name in schema.names}
        ids = next((name for name in ID_KEYS if name in columns), None)
        data = next((name for name in DATA_COLUMNS if name in columns and _holds_bytes(columns[name])), None)
        uris = next((name for name in (*URI_COLUMNS, "image") if name in columns and name != data), None)
        wanted = [name for name in (ids, None if data else uris) if name]
        rows = storage.read_table(file, columns=wanted).to_pylist() if wanted else []
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
    if not data and not uris:
        raise ValueError(f"{file}: expected a column {' or '.join((*URI_COLUMNS, *DATA_COLUMNS))}")
    for i in range(table.metadata.num_rows):
        row: dict[str, Any] = rows[i] if rows else {}
        with_id = _image_id(file, f"row {i}", row.get(ids) if ids else None, f"{called}-{i:06d}")
        yield Source(with_id, f"{file}#{data}={i}" if data else _place(file, row[uris or ""]))


def _holds_bytes(kind: pa.DataType) -> bool:
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_binary or pa.types.is_struct(kind)


def _image_id(file: str, place: str, given: Any, otherwise: str) -> str:
    try:
        return id_or(given, otherwise)
    except ValueError as error:
        raise ValueError(f"{file} {place}: {error}") from None


def _place(file: str, name: Any) -> str:
    """Return where an image is; a row without a name stands for its file, which is no image."""
    return storage.resolve(storage.parent(file), name) if name else file


def json_sources(file: str, image_root: str | None) -> Iterator[Source]:
    """Yield the images of a COCO annotation file, or of rows with the name of a file.

    They lie in ``image_root``, or in images/ beside the file, or beside it.

    Raises:
        ValueError: malformed: which entry, and what was expected; or none of the images is there.
    """
    beside = storage.join(storage.parent(file), "images")
    root = storage.absolute(image_root) if image_root else None
    root = root or (beside if storage.is_folder(beside) else storage.parent(file))
    entries = list(_entries(file))
    if entries and not _any_is_in(root, {name for _, name in entries}):
        raise ValueError(f"none of the images of {file} is in {root}; set --image-root")
    return (Source(image_id, storage.resolve(root, name)) for image_id, name in entries)


def _entries(file: str) -> Iterator[tuple[str, str]]:
    for place, row in read_json_rows(file, ("images",)):
        given = next((row[key] for key in ID_KEYS if row.get(key) is not None), None)
        name = next((row[key] for key in FILE_KEYS if isinstance(row.get(key), str) and row[key]), None)
        if name is None:
            keys = ", ".join(FILE_KEYS)
            raise ValueError(
                f"{file} {place}: expected the name of an image under one of {keys}: {row!r:.200}"
            )
        yield _image_id(file, place, given, name), name


def _any_is_in(root: str, names: Iterable[str]) -> bool:
    names = set(names)
    is_elsewhere = any(storage.resolve(root, name) != f"{root}/{name}" for name in names)
    return is_elsewhere or any(file.name in names for file in storage.walk(root))
