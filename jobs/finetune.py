"""Fine-tune a policy on captions or preferences: every weight, or LoRA, with the loss on their tokens only.

    visvm finetune --policy world --captions runs/caption --out runs/finetune
    visvm finetune --policy llava-hf/llava-v1.6-mistral-7b-hf --captions runs/caption \\
        --lora rank=16 --out runs/lora
    visvm finetune --policy llava-hf/llava-v1.6-mistral-7b-hf --captions runs/caption \\
        --num-workers 8 --bf16 --gradient-checkpointing --deepspeed cluster/deepspeed_zero3.json --out runs/7b

    visvm export --captions runs/caption --to step-dpo --out runs/pairs
    visvm finetune --policy world --objective step-dpo --captions runs/pairs --out runs/dpo

dpo and step-dpo are direct preference optimisation by TRL's trainer, on pairs of whole captions or of the
next sentence; the reference is the policy that it begins with, read once before the first step.
The result, OUT/model, is a policy that every job takes; of --lora it is an adapter (see visvm merge). If it
is interrupted, the same command resumes from the last checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from jobs.inputs.stamps import training_inputs
from jobs.runner.command import run
from jobs.runner.hub import HubOptions
from jobs.runner.inputs import Inputs
from jobs.runtime.workers_config import WorkersConfig
from visvm import storage
from visvm.config import Place
from visvm.training.config import SftConfig, read_deepspeed


class FinetuneConfig(SftConfig, WorkersConfig, HubOptions):
    """The policy to fine-tune and the captions to learn."""

    # The world's vision encoder does not survive that learning rate, and is kept as it is.
    WORLD_DEFAULTS: ClassVar = {
        "learning_rate": 5e-4,
        "batch_size": 32,
        "micro_batch_size": 16,
        "train_vision": False,
    }

    OPERATIONAL = HubOptions.OPERATIONAL | {"max_error_share"}

    captions: tuple[Place, ...] = Field(
        min_length=1,
        description="run folders of caption or export, parquet, or JSON (lines) of image and caption; for dpo"
        " and step-dpo run folders of export",
    )

    @property
    def learns(self) -> Literal["values", "captions"]:
        """Return what a training example is: an image with all its sentences, or one caption."""
        return "captions"

    def inputs(self) -> Inputs:
        """Return what it learns from and starts from."""
        return training_inputs(self, "captions" if self.objective == "sft" else "pairs", self.captions)

    def examples(self) -> Sequence[Any]:
        """Read what is learned: captions, or preferences.

        Raises:
            ValueError: a place is missing, or holds something else.
        """
        from visvm.training.captions import read_captions

        if self.objective == "sft":
            return read_captions(self.captions)
        from visvm.training.dpo import read_preferences

        return read_preferences(self.captions)


def work(config: FinetuneConfig) -> dict[str, Any]:
    """Check everything that can be checked, then train."""
    from jobs.inputs.training_images import check_images
    from jobs.runtime import ray_setup, workers
    from jobs.runtime.finetune_worker import train
    from visvm import models
    from visvm.training import sft
    from visvm.training.lora import check_base

    policy = models.check_policy(config.policy)
    check_base(policy, config.lora)
    folders = tuple(map(storage.absolute, config.captions))
    examples = config.model_copy(update={"captions": folders}).examples()
    hashes = {example.uri: example.content_hash for example in examples}
    left_out = check_images(hashes, config.max_error_share, num_read=len(hashes))
    for num_workers in range(config.least_workers, config.num_workers + 1):
        sft.accumulation(config, num_workers)
    resolved = {
        "policy": policy,
        "captions": folders,
        "out": storage.absolute(config.out),
        "deepspeed": read_deepspeed(config.deepspeed),
    }
    ray_setup.start(config)
    metrics = workers.fit(partial(train, left_out=left_out), config.model_copy(update=resolved))
    kind = "num_captions" if config.objective == "sft" else "num_pairs"
    return {kind: len(examples), "num_images_left_out": len(left_out), **metrics}


def _next(config: FinetuneConfig) -> str:
    return f"visvm caption --images IMAGES --policy {config.out}/model --out runs/captions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return run(FinetuneConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
