"""Train a vision value model by TD learning on a policy's rollouts.

    visvm train-value --policy world --rollouts runs/triples --out runs/value
    visvm train-value --policy llava-hf/llava-v1.6-mistral-7b-hf --rollouts runs/triples \\
        --num-workers 8 --bf16 --gradient-checkpointing --deepspeed cluster/deepspeed_zero3.json --out runs/7b
    visvm train-value --kind head --policy world --rollouts runs/triples --out runs/head

A head reads the states that the policy computes anyway: no second network, and no training on a GPU. Actors
(--num-workers) read the rollouts again with the policy; the weights follow in closed form.

The result, OUT/model, is what --value takes. OUT/curve.jsonl and OUT/tensorboard grow while it trains.
If it is interrupted, the same command resumes from the last checkpoint, and the weights are those of a run
without a break.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from jobs.inputs.stamps import training_inputs
from jobs.runner.command import run
from jobs.runner.hub import HubOptions
from jobs.runner.inputs import Inputs
from jobs.runtime.workers_config import WorkersConfig
from visvm import storage
from visvm.config import Place
from visvm.training.config import ValueTraining, read_deepspeed

NUM_READ = 512  # images that are read before training starts; it leaves out what else cannot be used


class TrainValueConfig(ValueTraining, WorkersConfig, HubOptions):
    """The policy to start from and the rollouts to learn from."""

    # The world's vision encoder does not survive that learning rate, and is kept as it is.
    WORLD_DEFAULTS: ClassVar = {
        "learning_rate": 1e-3,
        "batch_size": 4,
        "micro_batch_size": 4,
        "epochs": 3,
        "train_vision": False,
    }

    OPERATIONAL = HubOptions.OPERATIONAL | {"max_error_share"}

    rollouts: tuple[Place, ...] = Field(min_length=1, description="run folders of generate-triples")

    @property
    def learns(self) -> Literal["values", "captions"]:
        """Return what a training example is: an image with all its sentences, or one caption."""
        return "values"

    def inputs(self) -> Inputs:
        """Return what it learns from and starts from."""
        return training_inputs(self, "rollouts", self.rollouts)


def work(config: TrainValueConfig) -> dict[str, Any]:
    """Check everything that can be checked, then train."""
    import ray.data
    import ray.train

    from jobs.inputs.rollouts import content_hashes, rollout_files
    from jobs.inputs.training_images import check_images
    from jobs.runtime import head_training, ray_setup, workers
    from jobs.runtime.value_worker import train
    from visvm import models
    from visvm.training.lora import check_base

    files = [file for folder in config.rollouts for file in rollout_files(folder)]
    policy = models.check_policy(config.policy)
    check_base(policy, config.lora)
    check_images(content_hashes(files), config.max_error_share, num_read=NUM_READ)
    resolved = {
        "policy": policy,
        "deepspeed": read_deepspeed(config.deepspeed),
        "out": storage.absolute(config.out),
    }
    ray_setup.start(config)
    if config.kind == "head":
        return head_training.train(config.model_copy(update=resolved), files)
    return workers.fit(
        train,
        config.model_copy(update=resolved),
        datasets={"rollouts": ray.data.read_parquet(files)},
        # Every worker reads all rows (text, not images): which it trains on follows from the step
        # alone, so a run is resumed exactly, and its batches do not depend on the number of workers.
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
    )


def _next(config: TrainValueConfig) -> str:
    return (
        f"visvm caption --images IMAGES --policy {config.policy} --method visvm"
        f" --value {config.out}/model --out runs/captions"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return run(TrainValueConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
