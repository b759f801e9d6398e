"""What each worker of finetune runs: Hugging Face's Trainer, or TRL's, under Ray Train."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from transformers import TrainerCallback

from jobs.finetune import FinetuneConfig
from visvm import storage
from visvm.training import sft
from visvm.training.curve import Curve
from visvm.training.diverged import check_losses


def train(settings: dict[str, Any], left_out: Sequence[str] = ()) -> dict[str, Any]:
    """Run the objective's trainer in one worker, from the last checkpoint if there is one.

    Captions of the images ``left_out`` are not learned.
    """
    config = FinetuneConfig.model_validate(settings)
    context = ray.train.get_context()
    use_cpu = ray.train.torch.get_device().type == "cpu"
    if use_cpu:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    with tempfile.TemporaryDirectory() as scratch:
        make_arguments, build_trainer = _objective(config)
        arguments = make_arguments(
            config, output=Path(scratch), num_workers=context.get_world_size(), use_cpu=use_cpu
        )
        trainer = build_trainer(
            config.policy,
            [one for one in config.examples() if one.uri not in set(left_out)],
            arguments,
            config,
            callbacks=[RayTrainCallback(config.out)],
        )
        checkpoint = ray.train.get_checkpoint()
        with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
            trainer.train(resume_from_checkpoint=folder)
        sft.save_policy(trainer, storage.join(config.out, "model"), config)
    return sft.training_metrics(trainer)


def _objective(config: FinetuneConfig) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return what makes the arguments and the trainer of an objective."""
    if config.objective == "sft":
        return sft.training_arguments, sft.build_trainer
    from visvm.training import dpo

    return dpo.dpo_arguments, dpo.build_trainer


class RayTrainCallback(TrainerCallback):
    """Write the curve, and report checkpoints to Ray, which gathers the parts of all workers."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.curve: Curve | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.curve = Curve(self.out, step=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        check_losses(logs, state.global_step)
        if self.curve:
            self.curve.add({"step": state.global_step, "num_steps": state.max_steps, **logs})

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
