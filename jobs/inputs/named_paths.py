"""Sources given as [NAME=]PATH: one row of a table each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from visvm import storage


def named_paths(sources: Sequence[str]) -> dict[str, str]:
    """Return the absolute path of each source by its name: as given, else the file's or folder's.

    Raises:
        ValueError: two sources have one name.
    """
    found: dict[str, str] = {}
    for source in sources:
        name, equals, path = source.partition("=")
        if not equals or "/" in name:
            name, path = PurePosixPath(source).stem, source
        if name in found:
            raise ValueError(f"two sources are called {name!r}: tell them apart by NAME=PATH")
        found[name] = storage.absolute(path)
    return found
