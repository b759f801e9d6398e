"""Ray Train as the training jobs use it: workers, their resources, checkpoints, progress."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from jobs.capacity.cluster_spec import Cluster
from jobs.capacity.memory import worker_bytes
from jobs.capacity.preflight import Demand, check
from jobs.finetune import FinetuneConfig
from jobs.runner.command import DISK_FULL, Refused
from jobs.runtime import checkpoints, ray_setup
from jobs.runtime.curve_follower import following_curve
from jobs.train_value import TrainValueConfig
from visvm import storage
from visvm.training.diverged import Diverged

DIVERGED = "diverged"
logger = logging.getLogger(__name__)
TrainingJob = TrainValueConfig | FinetuneConfig
Train = Callable[[dict[str, Any]], dict[str, Any]]
CPUS_A_WORKER = 0.25  # leaves logical CPUs for Ray Data even on a laptop; threads are set explicitly


def fit(train: Train, config: TrainingJob, **options: Any) -> dict[str, Any]:
    """Run ``train`` on ``config.num_workers`` workers; return what it returns on rank 0.

    Checkpoints go to OUT/checkpoints. If a worker dies, all restart from the last checkpoint, up to
    ``max_failures`` times; running the same command again resumes from it too, or from the one before if it
    is damaged. After running out of memory the micro-batch is halved. OUT/curve.jsonl is reported as it
    grows.

    Raises:
        ValueError: the cluster has no room for the workers.
        Refused: the loss or the weights are no numbers.
    """
    need = demand(config)
    check([need])
    checkpoints.repair(storage.join(config.out, "checkpoints"))
    least, most = config.least_workers, config.num_workers
    num_workers: Any = (least, most) if least < most else most
    trainer: Any = TorchTrainer(
        partial(in_memory, train),  # type: ignore[arg-type]
        train_loop_config=config.model_dump(),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=need.gpus > 0,
            resources_per_worker={"CPU": need.cpus, **({"GPU": need.gpus} if need.gpus else {})},
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=config.out,
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.NUM_KEPT),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
        **options,
    )
    with following_curve(f"{config.out}/curve.jsonl"):
        result = _fitted(trainer)
    if DIVERGED in result:
        raise Refused(f"training diverged: {result[DIVERGED]}, and choose another --out")
    return result


def _fitted(trainer: Any) -> dict[str, Any]:
    """Run a trainer; a full disk of a worker or of Ray's controller is an error of this process."""
    try:
        return trainer.fit().return_value
    except TrainingFailedError as error:
        causes = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
        texts = [f"{one} {getattr(one, 'cause', '')}" for one in (error, *causes)]
        if any(os.strerror(number) in text for text in texts for number in DISK_FULL):
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} while training") from None
        raise


def in_memory(train: Train, settings: dict[str, Any]) -> dict[str, Any]:
    """Run ``train``; if it runs out of memory, halve the micro-batch for the next attempt and later runs.

    The optimiser's batches stay the same, so what is learned does not depend on it. The error is raised
    again: the other workers wait for this process, and its memory is fragmented.
    """
    note = storage.join(settings["out"], "checkpoints", "micro_batch_size")
    known = int(storage.read(note)) if storage.exists(note) else settings["micro_batch_size"]
    size = min(known, settings["micro_batch_size"])
    try:
        return train({**settings, "micro_batch_size": size})
    except Diverged as error:  # not raised, for Ray would try again
        return {DIVERGED: str(error)}
    except torch.OutOfMemoryError:
        smaller = [part for part in range(1, size // 2 + 1) if size % part == 0]
        if smaller:
            storage.write(note, str(smaller[-1]))
            logger.warning("out of memory with micro_batch_size = %d: resuming with %d", size, smaller[-1])
        raise


def demand(config: TrainingJob, cluster: Cluster | None = None) -> Demand:
    """Return the resources that the workers need on a cluster (default: the running one)."""
    is_gpu = ray_setup.loading(config.device, "float32", cluster)["device"] == "cuda"
    return Demand(
        "workers",
        config.least_workers,
        config.num_workers,
        cpus=1.0 if is_gpu else CPUS_A_WORKER,
        gpus=float(is_gpu),
        parts=[worker_bytes(config)],
        fewer="--num-workers",
        smaller="--micro-batch-size, or set --gradient-checkpointing and --deepspeed (stage 3, more workers)",
    )
