"""Self-training: rollouts, value model, searched captions, a policy tuned on them; then again with it.

    visvm self-train --rounds 2 --out runs/self-train
    visvm self-train --images photos/ --policy llava-hf/llava-v1.6-mistral-7b-hf \\
        --reward ViT-L-14-336/openai --test-images coco/ --out runs/self-train

Every stage is another job in a folder below OUT; if it is interrupted, the same command resumes with the
stage it was in. The last policy is OUT/round-N/policy/model. With test images (a COCO folder with
annotations) every policy's greedy captions are evaluated; the world brings its own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator, model_validator

from jobs import caption, finetune, generate_triples, train_value
from jobs.inputs.shared_paths import SharedPaths
from jobs.inputs.stamps import image_stamps, model_stamps
from jobs.runner.command import run
from jobs.runner.inputs import Inputs
from jobs.workflow.stages import Stages, check_options
from visvm import storage
from visvm.config import ModelName, Place
from visvm.models import check_reward
from visvm.search import METHODS

logger = logging.getLogger(__name__)


class SelfTrainConfig(SharedPaths):
    """The loop; the sections hold options of the jobs they are named after."""

    out: Place = Field(description="folder of the run")
    images: Place = Field("world", description='images to learn from: "world", folder, parquet or COCO json')
    test_images: Place | None = Field(None, description="COCO folder, with annotations, to evaluate on")
    policy: ModelName = Field("world", description='"world", local directory or hub id of the VLM')
    reward: ModelName = Field(
        "auto", description='"auto", "world", local directory, hub id or ARCHITECTURE/WEIGHTS of open_clip'
    )
    method: str = Field("visvm", description="how the captions to learn are written: " + ", ".join(METHODS))
    rounds: int = Field(1, ge=1, description="rounds of the loop")
    seed: int = Field(0, ge=0, description="seed of every stage")
    num_train: int = Field(600, ge=2, description="images of the world to learn from")
    num_test: int = Field(150, ge=1, description="images of the world to evaluate on")
    generate_triples: dict[str, Any] = Field({}, description="options of generate-triples")
    train_value: dict[str, Any] = Field({}, description="options of train-value")
    caption: dict[str, Any] = Field({}, description="options of caption, for the captions to learn")
    finetune: dict[str, Any] = Field({}, description="options of finetune")

    @field_validator("method")
    @classmethod
    def _is_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"expected one of {', '.join(METHODS)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> SelfTrainConfig:
        check_options(generate_triples.GenerateConfig, self.generate_triples, images=self.images)
        check_options(
            train_value.TrainValueConfig, self.train_value, policy=self.policy, rollouts=("rollouts",)
        )
        check_options(caption.CaptionConfig, self.caption, images=self.images)
        check_options(finetune.FinetuneConfig, self.finetune, policy=self.policy, captions=("captions",))
        return self

    def inputs(self) -> Inputs:
        """Return the images and the models that it starts from."""
        from jobs.inputs.image_list import find_all

        given = [place for place in (self.images, self.test_images) if place and place != "world"]
        uris = [source.uri for place in given for source in find_all(place)]
        return Inputs(fixed={**image_stamps(uris), **model_stamps(self)})


def work(config: SelfTrainConfig) -> dict[str, Any]:
    """Run the rounds, then evaluate every policy on the way."""
    from visvm.report.table import results_table

    common = {"reward": check_reward(config.reward, policy=config.policy)}
    stages = Stages(storage.absolute(config.out), config.seed, common, config.shared_paths)
    images, test_images = _images(config, stages)
    policy, tested = config.policy, {}
    for number in range(config.rounds + 1):
        if number:
            policy = _round(config, stages, f"round-{number}", images=images, policy=policy)
        if test_images:
            name = f"round-{number}/test"
            tested[f"round_{number}"] = stages.captions(name, test_images, method="greedy", policy=policy)
    result = stages.evaluation("evaluation", test_images, tested) if test_images else {}
    if result:
        print(f"\n{results_table(result['rows'])}\n")
    return {"policy": policy, "rows": result.get("rows", []), "paired": result.get("paired", [])}


def _images(config: SelfTrainConfig, stages: Stages) -> tuple[str, str | None]:
    if config.images != "world":
        return config.images, config.test_images
    train = stages.images("images/train", split="train", count=config.num_train)
    test = config.test_images or stages.images("images/test", split="test", count=config.num_test)
    return train, test


def _round(config: SelfTrainConfig, stages: Stages, name: str, *, images: str, policy: str) -> str:
    """Run one round; return the directory of its policy."""
    options: dict[str, Any] = {"policy": policy, **config.caption}
    predict = caption.PREDICTS.get(METHODS[config.method].needs)
    if predict:
        stages.rollouts(f"{name}/rollouts", images, policy=policy, **config.generate_triples)
        value = {
            **_rates(config, train_value.TrainValueConfig.WORLD_DEFAULTS),
            **config.train_value,
            "policy": policy,
            "predict": predict,
        }
        stages.value(f"{name}/value", f"{name}/rollouts", **value)
        options["value"] = f"{stages.path(name)}/value/model"
    captions = stages.captions(f"{name}/captions", images, method=config.method, **options)
    tuning = {**_rates(config, finetune.FinetuneConfig.WORLD_DEFAULTS), **config.finetune, "policy": policy}
    return stages.finetune(f"{name}/policy", captions, **tuning)


def _rates(config: SelfTrainConfig, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the world's defaults, which also suit the policies tuned from it."""
    return defaults if config.policy == "world" else {}


def _next(config: SelfTrainConfig) -> str:
    policy = f"{config.out}/round-{config.rounds}/policy/model"
    return f"visvm caption --images IMAGES --policy {policy} --out runs/captions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(SelfTrainConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
