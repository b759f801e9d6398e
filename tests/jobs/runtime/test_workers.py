"""Training that has to make do with less: memory, or machines."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jobs.loadtest import chaos
from jobs.runner.command import Refused
from jobs.runtime import ray_setup, workers
from jobs.train_value import TrainValueConfig
from tests.jobs.test_train_value import SETTINGS, check_equal, command, plain_run, rollouts
from tests.support.killing import title
from visvm.config import load
from visvm.training.diverged import Diverged

__all__ = ["rollouts"]  # a fixture


def fits(num: int) -> workers.Train:
    """A training that has memory for ``num`` images a pass, and returns what it was given."""

    def train(settings: dict[str, Any]) -> dict[str, Any]:
        if settings["micro_batch_size"] > num:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return settings

    return train


def test_a_micro_batch_without_room_is_halved_and_stays_so(tmp_path: Path) -> None:
    settings = {"out": str(tmp_path), "micro_batch_size": 12, "batch_size": 24}
    for _ in range(2):
        with pytest.raises(torch.OutOfMemoryError):
            workers.in_memory(fits(3), settings)
    for _ in range(2):
        assert workers.in_memory(fits(3), settings) == {**settings, "micro_batch_size": 3}


@pytest.mark.parametrize(("size", "smaller"), [(8, 4), (5, 1), (6, 3), (9, 3)])
def test_a_smaller_micro_batch_divides_what_the_larger_one_did(
    tmp_path: Path, size: int, smaller: int
) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        workers.in_memory(fits(0), {"out": str(tmp_path), "micro_batch_size": size})
    assert (tmp_path / "checkpoints" / "micro_batch_size").read_text() == str(smaller)


def test_one_image_cannot_be_halved(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        workers.in_memory(fits(0), {"out": str(tmp_path), "micro_batch_size": 1})
    assert not list(tmp_path.iterdir())


def diverges(settings: dict[str, Any]) -> dict[str, Any]:
    raise Diverged("td_loss is nan at step 3: lower the learning rate")


def fills_the_disk(settings: dict[str, Any]) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        pytest.param(diverges, Refused, "diverged: td_loss is nan at step 3", marks=pytest.mark.slow),
        (fills_the_disk, OSError, "No space left"),
    ],
)
def test_training_that_cannot_go_on_is_told_in_one_line(
    train: workers.Train, error: type[Exception], message: str, tiny_policy: Path, tmp_path: Path
) -> None:
    given = {"policy": str(tiny_policy), "rollouts": ["x"], "out": str(tmp_path), "device": "cpu"}
    config = load(TrainValueConfig, **given, max_failures=0)
    with pytest.raises(error, match=message) as caught:
        workers.fit(train, config)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.ray
def test_training_without_room_for_a_batch_ends_well(tiny_policy: Path, tmp_path: Path) -> None:
    """Through Ray Train: the worker that ran out of memory is replaced, within max_failures."""
    given = {"policy": str(tiny_policy), "rollouts": ["x"], "out": str(tmp_path), "device": "cpu"}
    config = load(TrainValueConfig, **given, micro_batch_size=4, max_failures=2)
    assert workers.fit(fits(1), config)["micro_batch_size"] == 1


@pytest.mark.ray
def test_workers_without_room_are_refused(tiny_policy: Path, tmp_path: Path) -> None:
    given = {"policy": str(tiny_policy), "rollouts": ["x"], "out": str(tmp_path), "device": "cpu"}
    with pytest.raises(ValueError, match=r"100 actors of 0\.25 CPU.*lower --num-workers"):
        workers.fit(fits(1), load(TrainValueConfig, **given, num_workers=100))


def training_workers() -> list[psutil.Process]:
    """The training processes of this session that run now."""
    return [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in title(one)]


def num_steps(out: Path) -> int:
    """Entries of the curve so far."""
    return len((out / "curve.jsonl").read_text().splitlines())


def wait(until: Callable[[], object], driver: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not until():
        assert driver.poll() is None, "the job ended"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


# A worker takes two of a node's three CPUs: the cluster of two nodes has room for two, one node for one.
ONE_A_NODE = """
import sys
from jobs import train_value
from jobs.runtime import workers
workers.CPUS_A_WORKER = 2
sys.exit(train_value.main())
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_training_goes_on_with_fewer_workers_when_a_node_is_lost(
    tiny_policy: Path, rollouts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = command(tiny_policy, rollouts, out, "--shared-paths", num_workers=2, min_workers=1, **SETTINGS)
    with chaos.cluster(num_nodes=2, num_cpus=3) as nodes, (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", ONE_A_NODE, *words],
            cwd=ray_setup.ROOT,
            env={**os.environ, "RAY_ADDRESS": nodes.address},
            stdout=log,
            stderr=log,
        )
        wait(lambda: list((out / "checkpoints").glob("checkpoint_*")), driver)
        assert len(training_workers()) == 2
        nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
        cut = num_steps(out)
        wait(lambda: num_steps(out) > cut, driver)
        assert len(training_workers()) == 1
        assert driver.wait() == 0, (tmp_path / "log").read_text()
    trainer, curve = plain_run(tiny_policy, rollouts)
    assert 0 < cut < len(curve), "it was cut off in the middle"
    check_equal(json.loads((out / "metrics.json").read_text()), trainer, curve)
