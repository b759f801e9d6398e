"""The interface of a store of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Kind = Literal["file", "folder"] | None


class File(NamedTuple):
    """A file in a listing: ``name`` is its path below the folder, ``stamp`` changes with its content."""

    name: str
    size: int
    stamp: str


class Store(Protocol):
    """A kind of storage. Transient errors are raised as ``Unreachable``, all others as ``OSError``."""

    def read(self, path: str, limit: int | None) -> bytes:
        """Return the bytes of a file, or the first ``limit`` of them."""
        ...

    def write(self, path: str, data: bytes, *, new: bool) -> None:
        """Write a file atomically: readers see the old content or the new, never a part.

        Raises:
            FileExistsError: ``new`` is set and the file exists.
        """
        ...

    def kind(self, path: str) -> Kind:
        """Return "file" or "folder", or None if there is neither."""
        ...

    def walk(self, path: str, *, recursive: bool) -> Iterator[File]:
        """Yield the files of a folder, in no particular order; none if there is no folder."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file, or a folder with its contents; do nothing if neither exists."""
        ...

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file to ``target`` on this machine."""
        ...

    def send(self, source: Path, path: str) -> None:
        """Copy the file ``source`` of this machine to ``path``."""
        ...


def files_below(folder: Path) -> list[str]:
    """Return the files below a local folder, config.json last: it marks a model as complete."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(names, key=lambda name: (name == "config.json", name))
