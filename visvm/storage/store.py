"""What a store of files does, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

Kind = Literal["file", "folder"] | None


class File(NamedTuple):
    """A file of a folder. ``name`` is its path below the folder; ``stamp`` changes with its content."""

    name: str
    size: int
    stamp: str


class Store(Protocol):
    """One kind of place; ``Unreachable`` is raised for what passes, ``OSError`` for what does not."""

    def read(self, path: str, limit: int | None) -> bytes:
        """The file's bytes, or the first ``limit`` of them."""
        ...

    def write(self, path: str, data: bytes, *, new: bool) -> None:
        """In one step: readers see the old file or the new one, never a part.

        Raises:
            FileExistsError: it shall be ``new``, and is not.
        """
        ...

    def kind(self, path: str) -> Kind:
        """Whether a file or a folder is there, or nothing (None)."""
        ...

    def walk(self, path: str, *, recursive: bool) -> Iterator[File]:
        """The files of a folder, in no order; none if there is no folder."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it, or nothing."""
        ...

    def fetch(self, path: str, target: Path) -> None:
        """Copy a file to this machine."""
        ...

    def send(self, source: Path, path: str) -> None:
        """Copy a file of this machine."""
        ...


def files_below(folder: Path) -> list[str]:
    """The files below a folder of this machine; config.json last, without which a model is none."""
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(names, key=lambda name: (name == "config.json", name))
