"""What each worker of train-value runs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from jobs.train_value import TrainValueConfig
from visvm import storage
from visvm.training.captions import split
from visvm.training.curve import Curve
from visvm.training.rollouts import from_rows
from visvm.training.value_card import model_card
from visvm.training.value_loop import ValueTrainer, build, shard_while_loading


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Train in one worker, from the last checkpoint if there is one."""
    config = TrainValueConfig.model_validate(settings)
    context = ray.train.get_context()
    if ray.train.torch.get_device().type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    started = time.monotonic()
    trainer = _trainer(config)

    curve = Curve(config.out, step=trainer.step) if context.get_world_rank() == 0 else None

    def save() -> None:
        if curve:
            curve.save()
        with tempfile.TemporaryDirectory() as folder:
            trainer.save(Path(folder))
            written = any(Path(folder).iterdir())
            checkpoint = ray.train.Checkpoint.from_directory(folder) if written else None
            ray.train.report({"step": trainer.step}, checkpoint=checkpoint)

    trainer.run(log=curve.add if curve else lambda entry: None, checkpoint=save)
    metrics = trainer.summary()
    _check_share(metrics, config.max_error_share)  # the same on every worker
    if curve is None:
        with tempfile.TemporaryDirectory() as folder:  # sends this worker's part of the weights to the first
            trainer.export(Path(folder))
        return {}
    metrics |= {"seconds": time.monotonic() - started, **summarise(curve.close())}
    _publish(trainer, config, metrics)
    return metrics


def _check_share(metrics: dict[str, Any], most: float) -> None:
    """Check that enough images could be learned from; RuntimeError if not."""
    bad, good = metrics["num_unreadable_images"], metrics["num_images"] + metrics["num_held_out_images"]
    if not metrics["num_sentences"] or bad > most * (bad + good):
        raise RuntimeError(
            f"{bad} of {bad + good} images were gone, damaged or changed when they were needed, more than"
            f" max_error_share = {most}; the model is not written"
        )


def _trainer(config: TrainValueConfig) -> ValueTrainer:
    """Return this worker's trainer in the state of the last checkpoint."""
    batches = ray.train.get_dataset_shard("rollouts").iter_batches(batch_size=None, batch_format="pyarrow")
    rollouts = from_rows(row for batch in batches for row in batch.to_pylist())
    part, held_out = split(rollouts, config.held_out)
    sharding = shard_while_loading(config)
    model = build(config.policy, part, config)
    del sharding
    device = ray.train.torch.get_device()
    trainer = ValueTrainer(model, config, train=part, held_out=held_out, device=device)
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            trainer.load(Path(folder))
    return trainer


def _publish(trainer: ValueTrainer, config: TrainValueConfig, metrics: dict[str, Any]) -> None:
    """Write OUT/model with its model card."""
    with storage.new_folder(storage.join(config.out, "model")) as folder:
        trainer.export(folder)
        (folder / "README.md").write_text(model_card(config.policy, config, trainer.model.config, metrics))


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the curve, the evaluations on held-out images, and the last of these."""
    evaluations = [entry for entry in entries if "held_out" in entry]
    return {
        "held_out": evaluations[-1]["held_out"] if evaluations else None,
        "curve": [entry for entry in entries if "held_out" not in entry],
        "evaluations": evaluations,
    }
