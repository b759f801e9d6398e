"""Checkpoints that a killed run, a full disk or a power cut leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from safetensors.torch import save_file

from jobs.runtime import checkpoints

NAMES = ["checkpoint_2026-11-25_10-00-00.000001", "checkpoint_2026-11-25_10-00-09.000001"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two checkpoints as Ray leaves it."""
    folder = tmp_path / "checkpoints"
    for step, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        torch.save({"weight": torch.zeros(100)}, folder / name / "state.pt")
        save_file({"weight": torch.zeros(100)}, folder / name / "model.safetensors")
        (folder / name / "trainer_state.json").write_text("{}")
        (folder / name / "step").write_text(str(step))
    checkpoints._write(str(folder / checkpoints.SNAPSHOT), NAMES)
    return folder


def manager(folder: Path) -> Any:
    """Ray's own list of the checkpoints, read from its snapshot."""
    storage = StorageContext(storage_path=str(folder.parent), experiment_dir_name=folder.name)
    return CheckpointManager(CheckpointConfig(num_to_keep=checkpoints.NUM_KEPT), storage)


def kept(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.glob("checkpoint_*") if path.is_dir())
    known = manager(folder)
    assert [Path(one.checkpoint.path).name for one in known._checkpoint_results] == names
    latest = known.latest_checkpoint_result
    assert (Path(latest.checkpoint.path).name if latest else None) == (names[-1] if names else None)
    return names


def test_whole_checkpoints_are_left_as_they_are(folder: Path) -> None:
    before = (folder / checkpoints.SNAPSHOT).read_bytes()
    checkpoints.repair(str(folder))
    assert kept(folder) == NAMES and (folder / checkpoints.SNAPSHOT).read_bytes() == before


@pytest.mark.parametrize("name", ["state.pt", "model.safetensors", "trainer_state.json", "step"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_the_one_before_a_damaged_one_is_the_last(folder: Path, name: str, share: float) -> None:
    file = folder / NAMES[1] / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    checkpoints.repair(str(folder))
    assert kept(folder) == NAMES[:1]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"checkpoint_results": 3}'])
def test_a_damaged_snapshot_is_written_again(folder: Path, damage: str) -> None:
    (folder / checkpoints.SNAPSHOT).write_text(damage)
    checkpoints.repair(str(folder))
    assert kept(folder) == NAMES


def test_what_the_snapshot_does_not_list_is_deleted(folder: Path) -> None:
    orphan = folder / "checkpoint_2026-11-25_10-00-05.000001"
    orphan.mkdir()
    (orphan / "state.pt").write_bytes(b"half")
    checkpoints.repair(str(folder))
    assert kept(folder) == NAMES


@pytest.mark.parametrize("prepare", [lambda folder: None, lambda folder: folder.mkdir()])
def test_nothing_to_resume_from(tmp_path: Path, prepare: Callable[[Path], None]) -> None:
    prepare(tmp_path / "checkpoints")
    checkpoints.repair(str(tmp_path / "checkpoints"))
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_without_a_whole_one_training_begins_anew(folder: Path) -> None:
    for name in NAMES:
        (folder / name / "state.pt").write_bytes(b"")
    checkpoints.repair(str(folder))
    assert kept(folder) == [] and not (folder / checkpoints.SNAPSHOT).exists()


def test_the_snapshot_has_the_keys_of_rays_own(folder: Path) -> None:
    ours = json.loads((folder / checkpoints.SNAPSHOT).read_text())
    assert ours.keys() == json.loads(manager(folder)._save_state()).keys()
