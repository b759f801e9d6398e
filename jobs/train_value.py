"""Train a vision value model by TD learning on a policy's rollouts.

    visvm train-value --policy world --rollouts runs/triples --out runs/value
    visvm train-value --policy llava-hf/llava-v1.6-mistral-7b-hf --rollouts runs/triples \\
        --num-workers 8 --bf16 --gradient-checkpointing --deepspeed cluster/deepspeed_zero3.json --out runs/7b

The result, OUT/model, is what --value takes. OUT/curve.jsonl and OUT/tensorboard grow while it trains.
A run that was cut off goes on from its last checkpoint when the same command is given again, and ends
with the weights of a run that was not.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
from pydantic import Field, model_validator

from jobs.inputs import models
from jobs.inputs.shared_paths import SharedPaths
from jobs.runner.command import run
from jobs.runtime import ray_setup, workers
from visvm import storage
from visvm.records import RESPONSE, ROLLOUTS
from visvm.tables import table_files
from visvm.training.captions import split
from visvm.training.curve import Curve
from visvm.training.rollouts import from_rows
from visvm.training.sft import read_deepspeed
from visvm.training.value_card import model_card
from visvm.training.value_loop import ValueTrainer, ValueTraining, build, shard_while_loading

# A model of two million parameters learns at another rate than one of seven billion.
# Its sight does not survive that rate: the scheduler is kept as it is.
WORLD_DEFAULTS = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "micro_batch_size": 4,
    "epochs": 3,
    "train_vision": False,
}


class TrainValueConfig(ValueTraining, workers.WorkersConfig, SharedPaths):
    """``visvm train-value``."""

    policy: str = Field(description='directory or hub id of the policy to start from, or "world"')
    rollouts: tuple[str, ...] = Field(min_length=1, description="run folders of generate-triples")

    @model_validator(mode="before")
    @classmethod
    def _world_defaults(cls, data: Any) -> Any:
        is_world = isinstance(data, Mapping) and data.get("policy") == "world"
        return {**WORLD_DEFAULTS, **data} if is_world else data


def work(config: TrainValueConfig) -> dict[str, Any]:
    """Check everything that can be checked, then train."""
    files = [file for folder in config.rollouts for file in rollout_files(folder)]
    resolved = {
        "policy": models.check_policy(config.policy),
        "deepspeed": read_deepspeed(config.deepspeed),
        "out": storage.absolute(config.out),
    }
    ray_setup.start(config)
    return workers.fit(
        train,
        config.model_copy(update=resolved),
        datasets={"rollouts": ray.data.read_parquet(files)},
        # Every worker reads all rows (text, not images): which it trains on follows from the step
        # alone, so a run is resumed exactly, and its batches do not depend on the number of workers.
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def rollout_files(folder: str) -> list[str]:
    """The parquet files of a rollouts folder (local or a URI), in order; a run folder stands for its own.

    Raises:
        ValueError: it is missing or empty, or holds something else.
    """
    files = table_files(folder, "rollouts")
    try:
        num_rows = sum(map(_count, files))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read rollouts from {folder}: {str(error).splitlines()[0]}") from None
    if not num_rows:
        raise ValueError(f"rollouts = {folder}: no rollouts in it")
    return files


def _count(file: str) -> int:
    """Rows of one parquet file that must hold rollouts."""
    parquet = storage.parquet(file)
    schema = parquet.schema_arrow
    missing = set(ROLLOUTS.names) - set(schema.names)
    if not missing:
        responses = schema.field("responses").type
        has = {field.name for field in responses.value_type} if pa.types.is_list(responses) else set()
        missing = {f"responses.{field.name}" for field in RESPONSE} - {f"responses.{name}" for name in has}
    if missing:
        raise ValueError(f"{file} holds no rollouts: {', '.join(sorted(missing))} is missing")
    return parquet.metadata.num_rows


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: from the last checkpoint on, if there is one."""
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
    if curve is None:
        with tempfile.TemporaryDirectory() as folder:  # its part of the weights goes to the first worker
            trainer.export(Path(folder))
        return {}
    metrics |= {"seconds": time.monotonic() - started, **summarise(curve.close())}
    _publish(trainer, config, metrics)
    return metrics


def _trainer(config: TrainValueConfig) -> ValueTrainer:
    """This worker's trainer, as the last checkpoint left it."""
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
    """Write OUT/model, with its card."""
    with storage.new_folder(storage.join(config.out, "model")) as folder:
        trainer.export(folder)
        (folder / "README.md").write_text(model_card(config.policy, config, trainer.model.config, metrics))


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The curve, the evaluations on held-out images, and the last of these."""
    evaluations = [entry for entry in entries if "held_out" in entry]
    return {
        "held_out": evaluations[-1]["held_out"] if evaluations else None,
        "curve": [entry for entry in entries if "held_out" not in entry],
        "evaluations": evaluations,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    return run(TrainValueConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
