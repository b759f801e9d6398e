"""Where images come from: a folder, parquet files or a COCO annotation file, here or in a store."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

from visvm import storage

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})
ID_COLUMNS = ("image_id", "id")
URI_COLUMNS = ("uri", "path", "file_name")
DATA_COLUMNS = ("image", "bytes")


class Source(NamedTuple):
    """An image not yet read: its identity, and where ``visvm.images.read`` finds it."""

    image_id: str
    uri: str


def find(images: str, *, image_root: str | None = None) -> list[Source]:
    """Every image of a folder, a parquet file (or a folder of them) or a COCO json, sorted by id.

    Raises:
        ValueError: nothing there, nothing in it, malformed, or two images with one id.
    """
    try:
        sources = list(dict.fromkeys(_read(storage.absolute(images), image_root)))
    except OSError as error:
        raise ValueError(f"cannot read images = {images!r}: {error}") from None
    if not sources:
        raise ValueError(f"images = {images!r}: no images in it")
    check_unique(sources)
    return sorted(sources)


def draw(sources: Sequence[Source], sample: int | None, seed: int) -> list[Source]:
    """``sample`` of the sources at random, in their order; all of them for None.

    Raises:
        ValueError: fewer sources than ``sample``.
    """
    if sample is None:
        return list(sources)
    if sample > len(sources):
        raise ValueError(f"sample = {sample}: there are only {len(sources)} images")
    return sorted(random.Random(seed).sample(list(sources), sample))


def in_shard(image_id: str, shard: str) -> bool:
    """Whether an image is of part I of N ("I/N"); which one follows from its id alone."""
    part, num = map(int, shard.split("/"))
    return int(hashlib.sha256(image_id.encode()).hexdigest(), 16) % num == part


def _read(images: str, image_root: str | None) -> Iterator[Source]:
    if not storage.exists(images):
        raise ValueError(f"images = {images!r}: no such file or folder")
    if images.endswith(".json"):
        return _coco(images, image_root)
    if images.endswith(".parquet"):
        return _parquet(images)
    if not storage.is_folder(images):
        raise ValueError(f"images = {images}: expected a folder, a .parquet file or a COCO .json file")
    return _folder(images, image_root)


def _folder(folder: str, image_root: str | None) -> Iterator[Source]:
    """A folder may hold COCO annotations, parquet files, or the images themselves."""
    names = [file.name for file in storage.walk(folder)]
    top = sorted(name for name in names if "/" not in name)
    annotations = [name for name in top if name.startswith("instances_") and name.endswith(".json")]
    if len(annotations) > 1:
        raise ValueError(f"images = {folder}: name one of its annotation files: {', '.join(annotations)}")
    if annotations:
        return _coco(storage.join(folder, annotations[0]), image_root)
    tables = [storage.join(folder, name) for name in top if name.endswith(".parquet")]
    return (source for table in tables for source in _parquet(table)) if tables else _files(folder, names)


def _files(folder: str, names: Iterable[str]) -> Iterator[Source]:
    """An image's id is its path without the suffix, or with it where two share the rest."""
    images = [PurePosixPath(name) for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES]
    counts = Counter(image.with_suffix("") for image in images)
    for image in images:
        stem = image.with_suffix("")
        yield Source(str(stem if counts[stem] == 1 else image), storage.join(folder, str(image)))


def _coco(file: str, image_root: str | None) -> Iterator[Source]:
    """The images of a COCO annotation file lie in ``image_root``, or in images/ beside it, or beside it."""
    beside = storage.join(storage.parent(file), "images")
    root = storage.absolute(image_root) if image_root else None
    root = root or (beside if storage.is_folder(beside) else storage.parent(file))
    try:
        images = json.loads(storage.read(file))["images"]
        entries = [(str(entry["id"]), str(entry["file_name"])) for entry in images]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a COCO annotation file: {error!r}") from None
    if entries and not _any_is_in(root, {name for _, name in entries}):
        raise ValueError(f"none of the images of {file} is in {root}; set --image-root")
    return (Source(image_id, storage.join(root, name)) for image_id, name in entries)


def _any_is_in(root: str, names: set[str]) -> bool:
    is_elsewhere = any(storage.join(root, name) != f"{root}/{name}" for name in names)
    return is_elsewhere or any(file.name in names for file in storage.walk(root))


def _parquet(file: str) -> Iterator[Source]:
    """A row is an image: an id column if there is one, and a uri or the bytes themselves."""
    try:
        table = storage.parquet(file)
        schema = table.schema_arrow
        id_column = _first(schema, ID_COLUMNS)
        uri_column, data_column = _first(schema, URI_COLUMNS), _first(schema, DATA_COLUMNS)
        wanted = [name for name in (id_column, uri_column) if name]
        rows = storage.read_table(file, columns=wanted).to_pylist() if wanted else []
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
    if not uri_column and not data_column:
        raise ValueError(f"{file}: expected a column {' or '.join((*URI_COLUMNS, *DATA_COLUMNS))}")
    for i in range(table.metadata.num_rows):
        row: dict[str, Any] = rows[i] if rows else {}
        image_id = str(row[id_column]) if id_column else f"{PurePosixPath(file).stem}-{i:06d}"
        beside = storage.join(storage.parent(file), (row[uri_column] or "") if uri_column else "")
        yield Source(image_id, beside if uri_column else f"{file}#{data_column}={i}")


def _first(schema: pa.Schema, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def check_unique(sources: Sequence[Source]) -> None:
    """Check that every image has an id of its own; ValueError names two that share one."""
    counts = Counter(source.image_id for source in sources)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        first = [source.uri for source in sources if source.image_id == twice[0]]
        raise ValueError(
            f"{len(twice)} image ids stand for more than one image, such as {twice[0]!r}: {first}"
        )
