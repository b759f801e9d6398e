"""Ray Train, as the training jobs use it: workers, room for them, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train import CheckpointConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from jobs import ray_setup
from jobs.nodes import Cluster
from jobs.preflight import Demand, check
from jobs.sizes import worker_bytes
from jobs.watch import watching

CPUS_A_WORKER = 0.25  # leaves logical CPUs for Ray Data, on a laptop too; threads are set by hand


def fit(train: Callable[[dict[str, Any]], dict[str, Any]], config: Any, **options: Any) -> dict[str, Any]:
    """Run ``train`` on ``config.num_workers`` workers; what it returns on rank 0.

    Checkpoints go to OUT/checkpoints, from where the same command goes on; OUT/curve.jsonl is
    shown as it grows.

    Raises:
        ValueError: the cluster has no room for the workers.
    """
    need = demand(config)
    check([need])
    trainer: Any = TorchTrainer(
        train,  # type: ignore[arg-type]
        train_loop_config=config.model_dump(),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=need.gpus > 0,
            resources_per_worker={"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {})},
        ),
        run_config=RunConfig(
            name="checkpoints", storage_path=config.out, checkpoint_config=CheckpointConfig(num_to_keep=1)
        ),
        **options,
    )
    with watching(f"{config.out}/curve.jsonl"):
        return trainer.fit().return_value


def demand(config: Any, cluster: Cluster | None = None) -> Demand:
    """What the workers ask of a cluster (the running one, for None)."""
    is_gpu = ray_setup.loading(config.device, "float32", cluster)["device"] == "cuda"
    return Demand(
        "workers",
        config.num_workers,
        config.num_workers,
        cpus=1.0 if is_gpu else CPUS_A_WORKER,
        gpus=float(is_gpu),
        parts=[worker_bytes(config)],
        fewer="--num-workers",
        smaller="--micro-batch-size, or set --gradient-checkpointing and --deepspeed (stage 3, more workers)",
    )
