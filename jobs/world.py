"""Make images of the embedded world as a COCO folder, or train its models from scratch.

visvm world make --split validation --count 100 --out runs/images
visvm world train --out runs/world          (about an hour on two cores)
visvm world train --short --out runs/short  (the same recipe in seconds; weak models)
visvm world reward --out runs/siglip        (a second reward: SigLIP's loss, another seed)
visvm world train --second --seed 1 --out runs/world2  (another world by the same recipe: docs/world.md)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from jobs.runner.command import run
from visvm.config import Config, did_you_mean


class MakeConfig(Config):
    """Which images to make, and where."""

    out: str = Field(description="folder for images/, instances_*.json and captions_*.json")
    split: Literal["train", "validation", "test", "train2", "validation2", "test2"] = Field(
        "validation", description="which split; those that end in 2 are of the second world"
    )
    count: int = Field(100, ge=1, le=1_000_000, description="how many images")
    start: int = Field(0, ge=0, lt=1_000_000, description="index of the first image")


class TrainConfig(Config):
    """How to train the world's models."""

    out: str = Field(description="folder for the models (policy/, clip/) and the stages before them")
    short: bool = Field(False, description="seconds instead of an hour; the models are weak")
    seed: int = Field(0, ge=0, description="seed of the stages")
    second: bool = Field(False, description="train the second world: its own images and writer")
    judge: bool = Field(True, description="teach the policy the place of names and the truth of claims too")


class RewardConfig(Config):
    """A SigLIP-type reward on the vision encoder of the shipped policy."""

    out: str = Field(description="folder of the reward model: OUT/model")
    seed: int = Field(1, ge=0, description="seed of weights, images and sentences")
    num_images: int = Field(6000, ge=96, description="training images")
    steps: int = Field(600, ge=1, description="training steps of 96 images")


def reward(config: RewardConfig) -> dict[str, Any]:
    """Train a reward whose objective and seed differ from those of the shipped CLIP."""
    from visvm.world import recipe

    return recipe.train_reward(config.out, config.num_images, config.steps, config.seed)


def make(config: MakeConfig) -> dict[str, Any]:
    """Write the images and their annotations; return how many."""
    from visvm.world import coco_export

    if config.start + config.count > 1_000_000:
        raise ValueError(f"start + count must stay within 1000000, got {config.start + config.count}")
    paths = coco_export.make(config.out, split=config.split, count=config.count, start=config.start)
    return {"num_images": len(paths), "split": config.split}


def train(config: TrainConfig) -> dict[str, Any]:
    """Train tokenizer, vision encoder, CLIP and policy; stages already saved in ``out`` are kept."""
    from visvm.world import recipe

    return recipe.train(config.out, recipe.Options(**config.model_dump(exclude={"out"})))


def _next(config: MakeConfig) -> str:
    return f"visvm caption --images {config.out} --method visvm --out runs/captions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``make ...``, ``train ...`` or ``reward ...``; return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    verb = given[0] if given else ""
    if verb == "make":
        return run(MakeConfig, make, given[1:], doc=__doc__ or "", next_command=_next)
    if verb == "train":
        return run(TrainConfig, train, given[1:], doc=__doc__ or "")
    if verb == "reward":
        return run(RewardConfig, reward, given[1:], doc=__doc__ or "")
    if verb in ("-h", "--help"):
        print(f"usage: visvm world make|train|reward [flags]\n\n{__doc__}")
        return 0
    near = did_you_mean(verb, ("make", "train", "reward"))
    print(
        f"error: world takes make, train or reward, got {verb!r}{near} (see visvm world --help)",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
