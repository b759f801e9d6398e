"""The curve of a run: one JSON line an entry, and TensorBoard files; exact over interruptions."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tensorboardX import SummaryWriter

from visvm import storage
from visvm.storage.store import files_below

SECONDS_BETWEEN_COPIES = 10.0


class Curve:
    """Appends to FOLDER/curve.jsonl and FOLDER/tensorboard, from ``step`` on.

    In a store files do not grow: there they are written on this machine and copied every few seconds.
    """

    def __init__(self, folder: str, *, step: int = 0) -> None:
        """Entries after ``step`` are of a run that was cut off and is repeated: they are dropped."""
        self.folder = folder
        self._scratch = TemporaryDirectory() if storage.is_remote(folder) else None
        self._here = Path(self._scratch.name if self._scratch else storage.absolute(folder))
        kept = [entry for entry in read_curve(f"{folder}/curve.jsonl") if entry["step"] <= step]
        (self._here / "curve.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.board = SummaryWriter(str(self._here / "tensorboard"), purge_step=step + 1)
        self._copied = time.monotonic()

    def add(self, entry: dict[str, Any]) -> None:
        """Add one entry; numbers, also nested ones, become scalars at its ``step``."""
        with (self._here / "curve.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in _scalars(entry):
            self.board.add_scalar(key, value, entry["step"])
        if time.monotonic() - self._copied > SECONDS_BETWEEN_COPIES:
            self.save()

    def save(self) -> None:
        """Make sure that FOLDER has all entries: before a checkpoint is, from which a run goes on."""
        if self._scratch:
            self.board.flush()
            for name in files_below(self._here):
                storage.send(self._here / name, storage.join(self.folder, name))
        self._copied = time.monotonic()

    def close(self) -> list[dict[str, Any]]:
        """All entries, those of earlier attempts included."""
        self.board.close()
        self.save()
        entries = read_curve(str(self._here / "curve.jsonl"))
        if self._scratch:
            self._scratch.cleanup()
        return entries


def read_curve(path: str) -> list[dict[str, Any]]:
    """The entries of a curve.jsonl (none if there is no file); a line that was cut off is left out."""
    entries = []
    for line in storage.read(path).decode().splitlines() if storage.exists(path) else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _scalars(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key not in ("step", "num_steps"):
            yield prefix + key, value
