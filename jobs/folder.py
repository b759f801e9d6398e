"""A job's output folder: locked while in use, complete once its manifest is written."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import yaml

from visvm.config import Config

MANIFEST = "manifest.json"


class RunFolder:
    """The folder ``config.out`` as a context: config.yaml at entry, metrics and manifest at the end.

    Raises:
        ValueError: the folder is in use, or was written with another config.
    """

    def __init__(self, path: Path | None, config: Config) -> None:
        self.path = path
        self.config = config
        self._lock: IO[str] | None = None

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """The run folder of a config; a config without ``out`` gets none, and every step is a no-op."""
        out = getattr(config, "out", None)
        return cls(Path(out) if out is not None else None, config)

    @property
    def complete(self) -> bool:
        """Whether an earlier run with this config finished here."""
        return self.path is not None and (self.path / MANIFEST).exists()

    def __enter__(self) -> RunFolder:
        if self.path is not None:
            self._acquire(self.path)
            self._check_config(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ValueError) and self.path is not None:
            self._forget(self.path)
        if self._lock is not None:
            self._lock.close()

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, then the manifest that marks the folder complete."""
        if self.path is None:
            return
        write_json(self.path / "metrics.json", metrics)
        write_json(self.path / MANIFEST, {"config_sha256": _digest(self.config), "complete": True})

    def _forget(self, path: Path) -> None:
        """Leave a refused config's folder as if unused, unless something was written there already."""
        if {entry.name for entry in path.iterdir()} == {".lock", "config.yaml"}:
            (path / "config.yaml").unlink()

    def _acquire(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path} is in use by another run; wait for it or choose another --out"
            ) from None
        except OSError as error:
            raise ValueError(f"cannot write to {path}: {error.strerror}") from None

    def _check_config(self, path: Path) -> None:
        saved = path / "config.yaml"
        config = self.config.model_dump(mode="json")
        if saved.exists() and yaml.safe_load(saved.read_text()) != config:
            raise ValueError(f"{path} was written with another config (see {saved}); choose another --out")
        saved.write_text(yaml.safe_dump(config, sort_keys=False))


def write_json(path: Path, data: Any) -> None:
    """Write JSON in one step: readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(temporary, path)


def _digest(config: Config) -> str:
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
