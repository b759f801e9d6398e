"""The files that a run's results follow from, each with a stamp that changes with its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from visvm import storage
from visvm.storage.store import File

NOT_READ = ("README.md", ".lock", "config.yaml")
NUM_NAMED = 3


@dataclass(frozen=True)
class Inputs:
    """The stamps of a run's inputs by their place; a change of a ``fixed`` one is refused."""

    fixed: Mapping[str, str] = field(default_factory=dict)
    free: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Return a hash of all places and stamps."""
        text = json.dumps([sorted(self.fixed.items()), sorted(self.free.items())])
        return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what is different, some of it by name: "a.parquet has changed", "and 7 more"."""
    found = [f"{place} is gone" for place in before if place not in now]
    found += [f"{place} is new" for place in now if place not in before]
    found += [f"{place} has changed" for place in now if place in before and now[place] != before[place]]
    more = len(found) - NUM_NAMED
    return found if more <= 0 else [*found[:NUM_NAMED], f"and {more} more"]


def stamps_below(folder: str) -> dict[str, str]:
    """Return the stamps of the files of a folder (a model, a run), except its card, lock and config."""
    folder = storage.absolute(folder)
    files = (file for file in storage.walk(folder) if not file.name.endswith(NOT_READ))
    return {storage.join(folder, file.name): _stamp(file) for file in files}


def stamps_of(places: Iterable[str]) -> dict[str, str]:
    """Return the stamps of files, and of the files of folders."""
    kinds = {place: storage.is_folder(place) for place in places}
    found = stamps(place for place, is_folder in kinds.items() if not is_folder)
    for place in (place for place, is_folder in kinds.items() if is_folder):
        found |= stamps_below(place)
    return found


def stamps(files: Iterable[str]) -> dict[str, str]:
    """Return the stamp of each file, "" for one that is not there; each of their folders is listed once."""
    folders: dict[str, dict[str, str]] = {}
    for file in dict.fromkeys(files):
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, {})[name] = file
    found = {file: "" for names in folders.values() for file in names.values()}
    for folder, names in folders.items():
        listed = storage.walk(folder, recursive=False)
        found |= {names[file.name]: _stamp(file) for file in listed if file.name in names}
    return found


def _stamp(file: File) -> str:
    return f"{file.size} bytes, {file.stamp}"
