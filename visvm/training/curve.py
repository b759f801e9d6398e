"""The training curve of a run: JSON lines and TensorBoard files, exact across interruptions."""

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
    """Appends entries to FOLDER/curve.jsonl and FOLDER/tensorboard.

    Objects in a remote store cannot be appended to, so there the files are written locally and copied
    every SECONDS_BETWEEN_COPIES.
    """

    def __init__(self, folder: str, *, step: int = 0) -> None:
        """Continue after ``step``; later entries, left by an interrupted attempt, are dropped."""
        self.folder = folder
        self._scratch = TemporaryDirectory() if storage.is_remote(folder) else None
        self._here = Path(self._scratch.name if self._scratch else storage.absolute(folder))
        kept = [entry for entry in read_curve(f"{folder}/curve.jsonl") if entry["step"] <= step]
        (self._here / "curve.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.board = SummaryWriter(str(self._here / "tensorboard"), purge_step=step + 1)
        self._copied = time.monotonic()

    def add(self, entry: dict[str, Any]) -> None:
        """Add one entry; its numbers, nested ones included, become TensorBoard scalars at its "step"."""
        with (self._here / "curve.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in _scalars(entry):
            self.board.add_scalar(key, value, entry["step"])
        if time.monotonic() - self._copied > SECONDS_BETWEEN_COPIES:
            self.save()

    def save(self) -> None:
        """Copy all entries to a remote FOLDER; call it before each checkpoint from which a run may resume."""
        if self._scratch:
            self.board.flush()
            for name in files_below(self._here):
                storage.send(self._here / name, storage.join(self.folder, name))
        self._copied = time.monotonic()

    def close(self) -> list[dict[str, Any]]:
        """Save, and return all entries, those of earlier attempts included."""
        self.board.close()
        self.save()
        entries = read_curve(str(self._here / "curve.jsonl"))
        if self._scratch:
            self._scratch.cleanup()
        return entries


def read_curve(path: str) -> list[dict[str, Any]]:
    """Read the entries of a curve.jsonl (none if there is no file) up to the first incomplete line."""
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
