"""Fine-tune a policy on captions: every weight, loss on the caption's tokens only.

    visvm finetune --policy world --captions runs/caption --out runs/finetune
    visvm finetune --policy llava-hf/llava-v1.6-mistral-7b-hf --captions runs/caption \\
        --num-workers 8 --bf16 --gradient-checkpointing --deepspeed cluster/deepspeed_zero3.json --out runs/7b

The result, OUT/model, is a policy that every job takes. A run that was cut off goes on from its last
checkpoint when the same command is given again.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from pydantic import Field, model_validator
from transformers import TrainerCallback

from jobs.inputs import models
from jobs.inputs.shared_paths import SharedPaths
from jobs.runner.command import run
from jobs.runtime import ray_setup, workers
from visvm import storage
from visvm.training import sft
from visvm.training.captions import check_images, read_captions
from visvm.training.curve import Curve

# A model of two million parameters learns at another rate than one of seven billion.
# Its sight does not survive that rate: the scheduler is kept as it is.
WORLD_DEFAULTS = {"learning_rate": 5e-4, "batch_size": 32, "micro_batch_size": 16, "train_vision": False}


class FinetuneConfig(sft.SftConfig, workers.WorkersConfig, SharedPaths):
    """``visvm finetune``."""

    policy: str = Field(description='directory or hub id of the policy to train, or "world"')
    captions: tuple[str, ...] = Field(min_length=1, description="run folders of the caption job")

    @model_validator(mode="before")
    @classmethod
    def _world_defaults(cls, data: Any) -> Any:
        is_world = isinstance(data, Mapping) and data.get("policy") == "world"
        return {**WORLD_DEFAULTS, **data} if is_world else data


def work(config: FinetuneConfig) -> dict[str, Any]:
    """Check everything that can be checked, then train."""
    policy = models.check_policy(config.policy)
    folders = tuple(map(storage.absolute, config.captions))
    examples = read_captions(folders)
    check_images(examples)
    for num_workers in range(config.least_workers, config.num_workers + 1):
        sft.accumulation(config, num_workers)
    resolved = {
        "policy": policy,
        "captions": folders,
        "out": storage.absolute(config.out),
        "deepspeed": sft.read_deepspeed(config.deepspeed),
    }
    ray_setup.start(config)
    return {"num_captions": len(examples), **workers.fit(train, config.model_copy(update=resolved))}


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: Hugging Face's Trainer, from the last checkpoint on if there is one."""
    config = FinetuneConfig.model_validate(settings)
    context = ray.train.get_context()
    use_cpu = ray.train.torch.get_device().type == "cpu"
    if use_cpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    with tempfile.TemporaryDirectory() as scratch:
        arguments = sft.training_arguments(
            config, output=Path(scratch), num_workers=context.get_world_size(), use_cpu=use_cpu
        )
        trainer = sft.build_trainer(
            config.policy,
            read_captions(config.captions),
            arguments,
            config,
            callbacks=[RayTrainCallback(config.out)],
        )
        checkpoint = ray.train.get_checkpoint()
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            trainer.train(resume_from_checkpoint=folder)
        sft.save_policy(trainer, storage.join(config.out, "model"))
    return sft.training_metrics(trainer)


class RayTrainCallback(TrainerCallback):
    """Writes the curve; hands checkpoints to Ray, which gathers the parts of all workers."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.curve: Curve | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.curve = Curve(self.out, step=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.curve:
            self.curve.add({"step": state.global_step, **logs})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.curve:
            self.curve.save()
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        ray.train.report(
            {"step": state.global_step},
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            delete_local_checkpoint_after_upload=True,
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.curve:
            self.curve.close()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    return run(FinetuneConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
