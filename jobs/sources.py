"""Where pictures come from: a folder, parquet files or a COCO annotation file."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})
ID_COLUMNS = ("image_id", "id")
URI_COLUMNS = ("uri", "path", "file_name")
DATA_COLUMNS = ("image", "bytes")


class Source(NamedTuple):
    """A picture not yet read: its identity, and where ``visvm.images.read`` finds it."""

    image_id: str
    uri: str


def find(images: str, *, image_root: str | None = None) -> list[Source]:
    """Every picture of a folder, a parquet file (or a folder of them) or a COCO json, sorted by id.

    Raises:
        ValueError: nothing there, nothing in it, malformed, or two pictures with one id.
    """
    path = Path(images).expanduser().absolute()
    if not path.exists():
        raise ValueError(f"images = {images!r}: no such file or folder")
    sources = list(dict.fromkeys(_read(path, image_root)))
    if not sources:
        raise ValueError(f"images = {images!r}: no pictures in it")
    _check_unique(sources)
    return sorted(sources)


def draw(sources: Sequence[Source], sample: int | None, seed: int) -> list[Source]:
    """``sample`` of the sources at random, in their order; all of them for None.

    Raises:
        ValueError: fewer sources than ``sample``.
    """
    if sample is None:
        return list(sources)
    if sample > len(sources):
        raise ValueError(f"sample = {sample}: there are only {len(sources)} pictures")
    return sorted(random.Random(seed).sample(list(sources), sample))


def _read(path: Path, image_root: str | None) -> Iterator[Source]:
    if path.suffix == ".json":
        return _coco(path, image_root)
    if path.suffix == ".parquet":
        return _parquet(path)
    if not path.is_dir():
        raise ValueError(f"images = {path}: expected a folder, a .parquet file or a COCO .json file")
    annotations = sorted(path.glob("instances_*.json"))
    if len(annotations) > 1:
        names = ", ".join(file.name for file in annotations)
        raise ValueError(f"images = {path}: name one of its annotation files: {names}")
    if annotations:
        return _coco(annotations[0], image_root)
    tables = sorted(path.glob("*.parquet"))
    return (source for file in tables for source in _parquet(file)) if tables else _folder(path)


def _folder(folder: Path) -> Iterator[Source]:
    """A picture's id is its path without the suffix, or with it where two share the rest."""
    files = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES]
    names = Counter(file.with_suffix("") for file in files)
    for file in files:
        name = file.with_suffix("") if names[file.with_suffix("")] == 1 else file
        yield Source(name.relative_to(folder).as_posix(), str(file))


def _coco(file: Path, image_root: str | None) -> Iterator[Source]:
    """The pictures of a COCO annotation file lie in ``image_root``, or in images/ beside it, or beside it."""
    beside = file.parent / "images"
    root = Path(image_root).expanduser().absolute() if image_root else None
    root = root or (beside if beside.is_dir() else file.parent)
    try:
        entries = [(str(entry["id"]), entry["file_name"]) for entry in json.loads(file.read_text())["images"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a COCO annotation file: {error!r}") from None
    if entries and not any((root / name).exists() for _, name in entries):
        raise ValueError(f"none of the pictures of {file} is in {root}; set --image-root")
    return (Source(image_id, str(root / name)) for image_id, name in entries)


def _parquet(file: Path) -> Iterator[Source]:
    """A row is a picture: an id column if there is one, and a uri or the bytes themselves."""
    try:
        schema = pq.read_schema(file)
        id_column = _first(schema, ID_COLUMNS)
        uri_column, data_column = _first(schema, URI_COLUMNS), _first(schema, DATA_COLUMNS)
        wanted = [name for name in (id_column, uri_column) if name]
        rows = pq.read_table(file, columns=wanted).to_pylist() if wanted else []
        num_rows = pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read {file}: {error}") from None
    if not uri_column and not data_column:
        raise ValueError(f"{file}: expected a column {' or '.join((*URI_COLUMNS, *DATA_COLUMNS))}")
    for i in range(num_rows):
        row: dict[str, Any] = rows[i] if rows else {}
        image_id = str(row[id_column]) if id_column else f"{file.stem}-{i:06d}"
        uri = _absolute(row[uri_column], file.parent) if uri_column else f"{file}#{data_column}={i}"
        yield Source(image_id, uri)


def _first(schema: pa.Schema, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _absolute(uri: str | None, folder: Path) -> str:
    return uri if uri and "://" in uri else str(folder / (uri or ""))


def _check_unique(sources: Sequence[Source]) -> None:
    counts = Counter(source.image_id for source in sources)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        first = [source.uri for source in sources if source.image_id == twice[0]]
        raise ValueError(
            f"{len(twice)} image ids stand for more than one picture, such as {twice[0]!r}: {first}"
        )
