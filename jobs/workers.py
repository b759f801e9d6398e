"""Ray Train, as the training jobs use it: workers, room for them, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from jobs import ray_setup
from jobs.watch import watching

CPUS_A_WORKER = 0.25  # leaves logical CPUs for Ray Data, on a laptop too; threads are set by hand


def fit(train: Callable[[dict[str, Any]], dict[str, Any]], config: Any, **options: Any) -> dict[str, Any]:
    """Run ``train`` on ``config.num_workers`` workers; what it returns on rank 0.

    Checkpoints go to OUT/checkpoints, from where the same command goes on; OUT/curve.jsonl is
    shown as it grows.

    Raises:
        ValueError: the cluster has no room for the workers.
    """
    is_gpu = ray_setup.loading(config.device, "float32")["device"] == "cuda"
    resources = {"GPU": 1.0, "CPU": 1.0} if is_gpu else {"CPU": CPUS_A_WORKER}
    check_room(config.num_workers, resources)
    trainer: Any = TorchTrainer(
        train,  # type: ignore[arg-type]
        train_loop_config=config.model_dump(),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=is_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="checkpoints", storage_path=config.out, checkpoint_config=CheckpointConfig(num_to_keep=1)
        ),
        **options,
    )
    with watching(Path(config.out) / "curve.jsonl"):
        return trainer.fit().return_value


def check_room(num_workers: int, resources: dict[str, float]) -> None:
    """Fail now where Ray would wait for ever.

    Raises:
        ValueError: naming what the workers need and what the cluster has.
    """
    have = ray.cluster_resources()
    for name, amount in resources.items():
        if num_workers * amount > have.get(name, 0):
            raise ValueError(
                f"num_workers = {num_workers} need {num_workers * amount:g} {name}, the cluster has"
                f" {have.get(name, 0):g}"
            )
