"""Names of this machine's files: file: URIs, folders that lead back to themselves, names that are no text."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes, unquote_to_bytes

from visvm.storage.store import File

logger = logging.getLogger(__name__)
_SCHEME = re.compile(r"file:(?://(?:localhost)?(?=/))?", re.IGNORECASE)


def is_file_uri(uri: str) -> bool:
    """Return whether ``uri`` is a URI of this machine's file system."""
    return uri[:5].lower() == "file:"


def path_of(uri: str) -> str:
    """Return the path of a file: URI, percent escapes decoded unless a file is called so.

    Raises:
        OSError: the name is no UTF-8.
    """
    path = _SCHEME.sub("", uri, count=1).removeprefix("//")
    if "%" not in path or os.path.lexists(path):
        return path
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise OSError("the name is no UTF-8: rename the file") from None


def uri_of(path: str) -> str:
    """Return the path itself, or a file: URI if its name is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"file://{quote_from_bytes(os.fsencode(path))}"
    return path


def walk(folder: str, *, recursive: bool) -> Iterator[File]:
    """Yield the files of a folder in no order; links are followed, but never back into a folder above."""
    if os.path.lexists(folder):
        yield from _walk(folder, "", recursive, ())


def _walk(folder: str, below: str, recursive: bool, above: tuple[tuple[int, int], ...]) -> Iterator[File]:
    status = os.stat(folder)
    above = (*above, (status.st_dev, status.st_ino))
    try:
        scanned = os.scandir(folder)
    except PermissionError as error:
        if not below:
            raise
        logger.warning("%s is left out: %s", folder, error.strerror)
        return
    with scanned as entries:
        for entry in entries:
            try:
                status = entry.stat()
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to what is not there, or to itself
                continue
            if is_file:
                yield File(below + entry.name, status.st_size, str(status.st_mtime_ns))
            elif is_folder and recursive and (status.st_dev, status.st_ino) not in above:
                yield from _walk(entry.path, f"{below}{entry.name}/", recursive, above)


def sync(path: str) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
