"""Sources given as [NAME=]PATH: one row of a table each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from jobs.inputs.caption_files import parse_source


def named_paths(sources: Sequence[str]) -> dict[str, str]:
    """Return the absolute path of each source by its name: as given, else the file's or folder's.

    Raises:
        ValueError: two sources have one name.
    """
    found: dict[str, str] = {}
    for source in sources:
        given, path = parse_source(source)
        name = given or PurePosixPath(path).stem
        if name in found:
            raise ValueError(f"two sources are called {name!r}: tell them apart by NAME=PATH")
        found[name] = path
    return found
