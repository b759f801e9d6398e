"""Where images come from: a folder, parquet, JSON or tar files, here or in a store."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from jobs.inputs.sources.base import SUFFIXES, FileSource, Source, check_unique, is_image, is_system
from jobs.inputs.sources.tables import json_sources, parquet_sources
from jobs.inputs.sources.tar import is_tar, tar_sources
from visvm import storage
from visvm.storage import local
from visvm.storage.json_rows import GZIP

__all__ = ["SUFFIXES", "Source", "check_unique", "draw", "find", "in_shard"]
logger = logging.getLogger(__name__)
HEAD = 512  # bytes that tell what a file is


def find(images: str, *, image_root: str | None = None) -> list[Source]:
    """Return every image of a folder, or of a parquet, JSON or tar file (or a folder of them), sorted by id.

    What a file is follows from its content. An image of a folder goes by its path there.

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
    """Return ``sample`` of the sources at random, in their order; all for None, or if there are fewer."""
    if sample is not None and sample > len(sources):
        logger.warning("sample = %d: there are only %d images; all of them are taken", sample, len(sources))
    if sample is None or sample >= len(sources):
        return list(sources)
    return sorted(random.Random(seed).sample(list(sources), sample))


def in_shard(seed_id: str, shard: str) -> bool:
    """Return whether an image is of part I of N ("I/N"); which one follows from its id alone."""
    part, num = map(int, shard.split("/"))
    return int(hashlib.sha256(seed_id.encode()).hexdigest(), 16) % num == part


def _read(images: str, image_root: str | None) -> Iterator[Source]:
    if storage.is_folder(images):
        return _folder(images, image_root)
    if not storage.exists(images):
        raise ValueError(f"images = {images!r}: no such file or folder")
    return _file(images, PurePosixPath(images).stem, image_root)


def _file(file: str, called: str, image_root: str | None) -> Iterator[Source]:
    head = storage.read(file, HEAD)
    if head.startswith(b"PAR1"):
        return parquet_sources(file, called)
    if is_tar(head):
        return tar_sources(file, called)
    if (head.startswith(GZIP) and ".tar" in file) or file.endswith(".tgz"):
        raise ValueError(
            f"images = {file}: images of a compressed tar file cannot be read one by one: unpack it"
        )
    if head.startswith(GZIP) or head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] in (b"{", b"["):
        return json_sources(file, image_root)
    raise ValueError(
        f"images = {file}: expected a folder, or a parquet, tar or JSON (COCO annotations) file;"
        f" it begins with {head[:16]!r}"
    )


def _folder(folder: str, image_root: str | None) -> Iterator[Source]:
    """A folder may hold COCO annotations, parquet or tar files, or the images themselves."""
    names = _without_system_files(folder, [file.name for file in storage.walk(folder)])
    top = sorted(name for name in names if "/" not in name)
    annotations = [name for name in top if name.startswith("instances_") and name.endswith(".json")]
    if len(annotations) > 1:
        raise ValueError(f"images = {folder}: name one of its annotation files: {', '.join(annotations)}")
    if annotations:
        return json_sources(storage.join(folder, annotations[0]), image_root)
    # A data set from the hub has its tables in folders, such as data/ or default/train/.
    below = names if not any(map(is_image, names)) else top
    for suffix in (".parquet", ".tar"):
        if files := [name for name in sorted(below) if name.endswith(suffix)]:
            return (
                source
                for name in files
                for source in _file(storage.join(folder, name), name.removesuffix(suffix), image_root)
            )
    return _images(folder, names)


def _without_system_files(folder: str, names: Sequence[str]) -> list[str]:
    skipped = [name for name in names if is_system(name) and is_image(name)]
    if skipped:
        logger.warning("%s: %d files of the system are skipped, such as %s", folder, len(skipped), skipped[0])
    return [name for name in names if not is_system(name)]


def _images(folder: str, names: Sequence[str]) -> Iterator[Source]:
    """Yield the images of a folder; one whose name is no UTF-8 is refused when it is read."""
    for name in filter(is_image, names):
        text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        yield FileSource(text, local.uri_of(storage.join(folder, name)))
