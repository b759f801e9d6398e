"""Images named one by one: files, globs, and everything that ``sources.find`` takes, in one list."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from jobs.inputs.sources import SUFFIXES, Source, check_unique, find
from jobs.inputs.sources.base import FileSource, is_image, is_system
from visvm import storage

WILD = frozenset("*?[")


def find_all(images: str | Sequence[str], *, image_root: str | None = None) -> list[Source]:
    """Return the images of every entry, sorted by id: folders, parquet, COCO json, image files, globs.

    An image file's id is its name; a glob's images are called by their path below the first folder with a
    wildcard in it. A file that several entries name counts once.

    Raises:
        ValueError: an entry has no images or is malformed, or two images have one id.
    """
    if isinstance(images, str) and not _is_file(images) and not _is_glob(images):
        return find(images, image_root=image_root)
    entries = [images] if isinstance(images, str) else images
    found = [source for entry in entries for source in _entry(entry, image_root)]
    unique = list({source.uri: source for source in found}.values())
    check_unique(unique)
    return sorted(unique)


def _entry(entry: str, image_root: str | None) -> list[Source]:
    if _is_file(entry):
        place = storage.absolute(entry)
        if not storage.is_file(place):
            raise ValueError(f"images = {entry!r}: no such file")
        return [FileSource(PurePosixPath(place).name, place)]
    if _is_glob(entry):
        if matches := list(_matches(storage.absolute(entry))):
            return matches
        raise ValueError(f"images = {entry!r}: no image file matches")
    return find(entry, image_root=image_root)


def _is_file(entry: str) -> bool:
    return PurePosixPath(entry).suffix.lower() in SUFFIXES and (not _is_glob(entry) or storage.is_file(entry))


def _is_glob(entry: str) -> bool:
    return bool(WILD & set(entry)) and not storage.exists(entry)


def _matches(pattern: str) -> Iterator[Source]:
    """Yield the image files that match, each part of the path by itself: "*" does not cross a "/"."""
    parts = pattern.split("/")
    num_fixed = next(i for i, part in enumerate(parts) if WILD & set(part))
    root, wanted = "/".join(parts[:num_fixed]) or "/", parts[num_fixed:]
    for file in storage.walk(root, recursive=len(wanted) > 1):
        names = file.name.split("/")
        is_match = len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))
        if is_match and is_image(file.name) and not is_system(file.name):
            yield FileSource(file.name, storage.join(root, file.name))
