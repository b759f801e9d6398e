"""The checkpoints of an interrupted training run, made fit to resume from.

Ray lists them in a snapshot, and resumes from the last one that it lists. If that one or the snapshot was cut
off (a full disk, a power cut), every attempt would fail there.
"""

from __future__ import annotations

import json
import logging
import zipfile
from typing import Any

import ray

from visvm import storage
from visvm.model_files import check_safetensors

NUM_KEPT = 2  # if the last one is damaged, there is the one before
SNAPSHOT = "checkpoint_manager_snapshot.json"
logger = logging.getLogger(__name__)


def repair(folder: str) -> None:
    """Leave only whole checkpoints in a run's ``folder``, and in Ray's snapshot of them.

    Those that the snapshot does not list were being written or deleted when the run was killed.
    """
    found = _checkpoints(folder)
    listed = _listed(storage.join(folder, SNAPSHOT))
    whole = []
    for name, files in sorted(found.items()):  # their names are times
        if listed is not None and name not in listed:
            fault: str | None = "it is not finished"
        else:
            fault = _fault(storage.join(folder, name), files)
        if fault is None:
            whole.append(name)
            continue
        logger.warning("checkpoint %s is deleted: %s", name, fault)
        storage.delete(storage.join(folder, name))
    if listed != whole:
        _write(storage.join(folder, SNAPSHOT), whole)


def _checkpoints(folder: str) -> dict[str, dict[str, int]]:
    """Return the files of each checkpoint, with their bytes."""
    found: dict[str, dict[str, int]] = {}
    for file in storage.walk(folder):
        name, _, rest = file.name.partition("/")
        if name.startswith("checkpoint_") and rest:
            found.setdefault(name, {})[rest] = file.size
    return found


def _listed(snapshot: str) -> list[str] | None:
    """Return the checkpoints that Ray lists, oldest first; None if the list is damaged."""
    if not storage.exists(snapshot):
        return []
    try:
        results = json.loads(storage.read(snapshot))["checkpoint_results"]
        return [entry["checkpoint_dir_name"] for entry in results]
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged: it is written again", snapshot)
        return None


def _fault(checkpoint: str, files: dict[str, int]) -> str | None:
    """Return what is wrong with a checkpoint's files, if anything."""
    for name, size in files.items():
        try:
            if not size:
                raise ValueError("empty")
            _check(storage.join(checkpoint, name), size)
        except ValueError as error:
            return f"{name} is damaged ({error})"
    return None


def _check(file: str, size: int) -> None:
    if file.endswith(".json"):
        json.loads(storage.read(file))
    elif file.endswith(".safetensors"):
        with storage.open_file(file) as stream:
            check_safetensors(file, stream, size)
    elif file.endswith((".pt", ".pth", ".bin")):
        with storage.open_file(file) as stream:
            if not zipfile.is_zipfile(stream):  # as torch.save writes them: the list of contents comes last
                raise ValueError("cut off")


def _write(snapshot: str, names: list[str]) -> None:
    """Write Ray's snapshot of these checkpoints; without any, training begins anew."""
    if not names:
        storage.delete(snapshot)
        return
    results = [{"version": 0, "checkpoint_dir_name": name, "metrics": {}} for name in names]
    state: dict[str, Any] = {
        "ray_version": ray.__version__,
        "checkpoint_results": results,
        "checkpoint_report_indices": [*range(len(names))],
        "latest_checkpoint_result": results[-1],
        "current_report_index": len(names),
        "pending_training_results": [],
        "pending_validation_specs": [],
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
    storage.write(snapshot, json.dumps(state))
