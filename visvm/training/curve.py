"""The curve of a run: one JSON line an entry, and TensorBoard files; exact over interruptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Curve:
    """Appends to FOLDER/curve.jsonl and FOLDER/tensorboard, from ``step`` on."""

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        """Entries after ``step`` are of a run that was cut off and is repeated: they are dropped."""
        self.path = folder / "curve.jsonl"
        kept = [entry for entry in read_curve(self.path) if entry["step"] <= step]
        self.path.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, entry: dict[str, Any]) -> None:
        """Add one entry; numbers, also nested ones, become scalars at its ``step``."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for key, value in _scalars(entry):
            self.board.add_scalar(key, value, entry["step"])

    def close(self) -> list[dict[str, Any]]:
        """All entries, those of earlier attempts included."""
        self.board.close()
        return read_curve(self.path)


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The entries of a curve.jsonl (none if there is no file); a line that was cut off is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def _scalars(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            yield prefix + key, value
