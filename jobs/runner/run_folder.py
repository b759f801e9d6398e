"""A job's output folder: locked while in use, complete once its manifest is written."""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from pydantic import ValidationError

from jobs.runner import data_card
from jobs.runner.inputs import Inputs, differences
from jobs.runner.lock import Lock, acquire
from jobs.runner.part_files import read_part
from visvm import storage
from visvm.config import Config

MANIFEST, INPUTS = "manifest.json", "inputs.json"
RESULTS = (".parquet", ".safetensors")
NOT_LISTED = {".lock", "checkpoints", "tensorboard", MANIFEST}
logger = logging.getLogger(__name__)


class RunFolder:
    """The folder ``config.out`` as a context: config.yaml at entry, metrics and manifest at the end.

    Raises:
        ValueError: the folder is in use, was written with another config, or holds a damaged file.
        RuntimeError: another run has taken the folder meanwhile.
    """

    def __init__(self, path: str | None, config: Config) -> None:
        self.path = path
        self.config = config
        self._inputs = Inputs()
        self._lock: Lock | None = None

    @classmethod
    def of(cls, config: Config) -> RunFolder:
        """Return the run folder of a config; without ``out`` there is none, and every step does nothing."""
        out = getattr(config, "out", None)
        return cls(storage.absolute(out) if out is not None else None, config)

    @property
    def complete(self) -> bool:
        """Return whether an earlier run with this config finished here, and all its files are still there."""
        if self.path is None or not storage.exists(storage.join(self.path, MANIFEST)):
            return False
        if faults := _faults(self.path):
            logger.warning("%s is not complete any more: %s; going on with it", self.path, "; ".join(faults))
            storage.delete(storage.join(self.path, MANIFEST))
        return not faults

    def is_done(self) -> bool:
        """Return whether an earlier run finished here with the inputs of now; else note them.

        They are what the method ``inputs`` of the config returns, if it has one.

        Raises:
            ValueError: an input that must not change has changed since an earlier run began.
        """
        if self.path is None:
            return False
        self._inputs = inputs = getattr(self.config, "inputs", Inputs)()
        self._check_fixed(storage.join(self.path, INPUTS))
        if not self.complete:
            return False
        manifest = storage.join(self.path, MANIFEST)
        known = read_json(manifest).get("inputs_sha256", None if inputs.free else inputs.fingerprint)
        if known == inputs.fingerprint:
            return True
        logger.info("the inputs of %s are not those of its last run: it runs again", self.path)
        storage.delete(manifest)
        return False

    def __enter__(self) -> RunFolder:
        if self.path is not None:
            self._lock = acquire(self.path)
            try:
                self._check_config(self.path)
                if not self.complete:
                    _check_parts(self.path)
            except BaseException:
                self._lock.release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path is None or self._lock is None:
            return
        if isinstance(error, ValueError):
            self._forget(self.path)
        self._lock.release()
        self._check_lock()

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, then the manifest that marks the folder complete and lists its files."""
        if self.path is None:
            return
        self._check_lock()
        write_json(storage.join(self.path, "metrics.json"), metrics)
        data_card.write(self.path)
        manifest = {
            "config_sha256": _digest(self.config),
            "inputs_sha256": self._inputs.fingerprint,
            "files": _files(self.path),
            "complete": True,
        }
        write_json(storage.join(self.path, MANIFEST), manifest)

    def _check_fixed(self, saved: str) -> None:
        """Check that what must not change has not, since an earlier run began; note it for the next one."""
        if storage.exists(saved) and (changed := differences(read_json(saved), self._inputs.fixed)):
            raise ValueError(
                f"{self.path} was begun with other inputs: {'; '.join(changed)}. Choose another --out"
            )
        if self._inputs.fixed:
            write_json(saved, self._inputs.fixed)

    def _check_lock(self) -> None:
        if self._lock is not None and self._lock.lost:
            raise RuntimeError(f"the run lost its output folder: {self._lock.lost}")

    def _forget(self, path: str) -> None:
        """Leave the folder of a refused config as it was, unless results are in it already."""
        if {file.name for file in storage.walk(path)} <= {".lock", "config.yaml", INPUTS}:
            storage.delete(storage.join(path, "config.yaml"))
            storage.delete(storage.join(path, INPUTS))

    def _check_config(self, path: str) -> None:
        saved = storage.join(path, "config.yaml")
        config = self.config.model_dump(mode="json")
        if storage.exists(saved) and (differences := self._differences(_mapping(saved), config)):
            raise ValueError(
                f"{path} was written with another config: {'; '.join(differences)}."
                " Give the same values, or choose another --out"
            )
        storage.write(saved, yaml.safe_dump(config, sort_keys=False))

    def _differences(self, saved: dict[str, Any], config: dict[str, Any]) -> list[str]:
        """Compare what the results follow from: each key that has changed, with both values."""
        try:  # renames former keys, and gives those that came later their defaults
            was = type(self.config).model_validate(saved).model_dump(mode="json")
        except ValidationError:
            was = saved
        keys = [key for key in {**config, **was} if key not in self.config.OPERATIONAL]
        return [
            f"{key} was {was.get(key)!r}, is {config.get(key)!r}"
            for key in keys
            if was.get(key) != config.get(key)
        ]


def _mapping(path: str) -> dict[str, Any]:
    """Read a saved config.

    Raises:
        ValueError: the file holds no mapping.
    """
    try:
        data = yaml.safe_load(storage.read(path))
    except yaml.YAMLError:
        data = None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: expected a config's keys and values; choose another --out")
    return data


def is_complete(path: str) -> bool:
    """Return whether the job that writes to ``path`` has finished."""
    return storage.exists(storage.join(path, MANIFEST)) and _listed(path) is not None


def _faults(path: str) -> list[str]:
    """Return which tables and weights of a finished run are not as its manifest says."""
    listed = _listed(path)
    if listed is None:
        return [f"{MANIFEST} is damaged"]
    sizes = {file.name: file.size for file in storage.walk(path)}
    return [
        f"{name} is missing" if name not in sizes else f"{name} has {sizes[name]} bytes instead of {size}"
        for name, size in listed.items()
        if name.endswith(RESULTS) and sizes.get(name) != size
    ]


def _listed(path: str) -> dict[str, int] | None:
    """Return the files of a finished run with their bytes, or None if the manifest is damaged."""
    try:
        files = read_json(storage.join(path, MANIFEST))["files"]
        return {name: int(file["bytes"]) for name, file in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _check_parts(path: str) -> None:
    """Read all tables of an unfinished run, for an error after hours would cost the work of these hours.

    Raises:
        ValueError: naming one that is damaged.
    """
    if storage.is_remote(path):  # stores keep checksums of their own
        return
    tables = [storage.join(path, file.name) for file in storage.walk(path) if file.name.endswith(".parquet")]
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(lambda table: read_part(table).num_rows, tables):
            pass


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON in one step: readers see the old file or the new one, never a part."""
    storage.write(str(path), json.dumps(data, indent=2) + "\n")


def read_json(path: str) -> Any:
    """Return what ``write_json`` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return json.loads(storage.read(path))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _files(path: str) -> dict[str, dict[str, int]]:
    """Return every file of the results by its name, with its bytes and, for a table, its rows."""
    found = [file for file in storage.walk(path) if NOT_LISTED.isdisjoint(file.name.split("/"))]
    tables = [file.name for file in found if file.name.endswith(".parquet")]
    with ThreadPoolExecutor(16) as pool:
        rows = pool.map(lambda name: storage.parquet(storage.join(path, name)).metadata.num_rows, tables)
        num_rows = dict(zip(tables, rows, strict=True))
    return {
        file.name: {"bytes": file.size} | ({"rows": num_rows[file.name]} if file.name in num_rows else {})
        for file in sorted(found)
    }


def _digest(config: Config) -> str:
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
