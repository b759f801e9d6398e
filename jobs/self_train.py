"""Self-training: rollouts, value model, searched captions, a policy tuned on them; then again with it.

    visvm self-train --rounds 2 --out runs/self-train
    visvm self-train --images photos/ --policy llava-hf/llava-v1.6-mistral-7b-hf \\
        --reward ViT-L-14-336/openai --test-images coco/ --out runs/self-train

Every stage is another job in a folder below OUT; if it is interrupted, the same command resumes with the
stage it was in. The last policy is OUT/round-N/policy/model, and metrics.json names the one to take: with
--early-stop, the last round that validation images did not find worse. OUT/report.html has a curve per round.
With test images (a COCO folder with annotations) every policy's greedy captions are evaluated; the world
brings its own.

    visvm self-train --rounds 3 --set train_value.kind=head --set caption.min_reward=0.38 \\
        --centres 1.0 0.94 0.88 --recall-margin 0.01 --early-stop --out runs/heads

learns from heads, with a veto on sentences of low reward, and chooses the centre of every round on validation
images.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs import caption, export, finetune, generate_triples, train_value
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
    export: dict[str, Any] = Field({}, description="options of export: what is learned of the captions")
    finetune: dict[str, Any] = Field({}, description="options of finetune")
    objective: Literal["sft", "dpo", "step-dpo"] = Field("sft", description="how the captions are learned")
    value: Literal["fresh", "carried"] = Field(
        "fresh", description="value model: trained in every round, or in the first (not a head)"
    )
    validation_images: Place | None = Field(
        None, description="COCO folder, with annotations, to choose centres by and to stop early"
    )
    num_validation: int = Field(150, ge=1, description="images of the world to choose by")
    centres: tuple[float, ...] = Field(
        (), description="reward centres to choose from in every round, as shares of the mean reward"
    )
    recall_margin: float = Field(
        0.0, description="a centre is chosen for the lowest CHAIRs at the base's recall plus this"
    )
    early_stop: bool = Field(
        False, description="end with the first round that is worse on validation images; it is not taken"
    )
    max_recall_loss: float = Field(0.01, ge=0, description="early_stop: recall below the base's")
    max_repetition_rise: float = Field(
        0.0, ge=0, description="early_stop: share of repeated sentences above the base's"
    )
    max_object_loss: float = Field(
        0.05, ge=0, description="early_stop: true objects a caption below the base's"
    )

    @property
    def has_head(self) -> bool:
        """Whether the value model is a head on the policy's states."""
        return self.train_value.get("kind") == "head"

    @property
    def needs_validation(self) -> bool:
        """Whether something is chosen on validation images."""
        return bool(self.centres) or self.early_stop

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
        check_options(export.ExportConfig, self.export, captions=("captions",), to="sft", **self._base())
        check_options(finetune.FinetuneConfig, self.finetune, policy=self.policy, captions=("captions",))
        if self.has_head and self.value == "carried":
            raise ValueError("value = carried: a head fits the policy it was trained on; leave it fresh")
        if self.needs_validation and self.images != "world" and self.validation_images is None:
            raise ValueError("centres and early_stop are chosen on validation images: give validation_images")
        return self

    def _base(self) -> dict[str, Any]:
        return {"base": ("captions",)} if self.export.get("base_share") else {}

    def inputs(self) -> Inputs:
        """Return the images and the models that it starts from."""
        from jobs.inputs.image_list import find_all

        given = [
            place
            for place in (self.images, self.validation_images, self.test_images)
            if place and place != "world"
        ]
        uris = [source.uri for place in given for source in find_all(place)]
        return Inputs(fixed={**image_stamps(uris), **model_stamps(self)})


def work(config: SelfTrainConfig) -> dict[str, Any]:
    """Run the rounds until the last, or until validation says stop; then evaluate every policy on the way."""
    from jobs.workflow.rounds import Rounds, reasons_to_stop
    from visvm.report.table import results_table

    common = {"reward": check_reward(config.reward, policy=config.policy)}
    stages = Stages(storage.absolute(config.out), config.seed, common, config.shared_paths)
    train, validation, test = _images(config, stages)
    rounds = Rounds(config, stages, train, validation)
    policies = [config.policy]
    stopped: list[str] = []
    curve = [row for row in [rounds.validate(0, config.policy)] if row]
    for number in range(1, config.rounds + 1):
        policies.append(rounds.run(number, policies[-1], curve[0] if curve else None))
        row = rounds.validate(number, policies[-1])
        if row is None:
            continue
        curve.append(row)
        stopped = reasons_to_stop(row, curve[-2], curve[0], config) if config.early_stop else []
        if stopped:
            logger.warning("round %d is not taken: %s (validation)", number, ", ".join(stopped))
            break
    tested = {}
    for number, policy in enumerate(policies if test else []):
        name = f"round-{number}/test"
        tested[f"round_{number}"] = stages.captions(name, test or "", method="greedy", policy=policy)
    result = stages.evaluation("evaluation", test, tested) if test else {}
    taken = len(policies) - 1 - bool(stopped)
    metrics = {
        "policy": policies[taken],
        "rounds_taken": taken,
        "stopped_by": stopped,
        "validation": curve,
        "rows": result.get("rows", []),
        "paired": result.get("paired", []),
    }
    _report(config, metrics)
    if result:
        print(f"\n{results_table(result['rows'])}\n")
    return metrics


def _images(config: SelfTrainConfig, stages: Stages) -> tuple[str, str | None, str | None]:
    """Return the images to learn from, to choose by and to evaluate on."""
    if config.images != "world":
        return config.images, config.validation_images, config.test_images
    train = stages.images("images/train", split="train", count=config.num_train)
    validation = config.validation_images
    if validation is None and config.needs_validation:
        validation = stages.images("images/validation", split="validation", count=config.num_validation)
    test = config.test_images or stages.images("images/test", split="test", count=config.num_test)
    return train, validation, test


def _report(config: SelfTrainConfig, metrics: dict[str, Any]) -> None:
    """Write report.html: the figures of each round as a table and as curves."""
    from visvm.report import Report, curves, render

    splits = {name: metrics[key] for name, key in (("validation", "validation"), ("test", "rows"))}
    facts = {
        "policy": config.policy,
        "method": f"{config.method}, {config.objective}, value model {config.value}",
        "taken": f"round {metrics['rounds_taken']} of {config.rounds}",
        "stopped by": ", ".join(metrics["stopped_by"]) or "nothing",
    }
    plots = curves.round_plots({name: rows for name, rows in splits.items() if rows})
    page = Report("visvm: rounds of self-training", facts, metrics["rows"], metrics["paired"], plots, [])
    storage.write(storage.join(config.out, "report.html"), render(page))


def _next(config: SelfTrainConfig) -> str:
    return f"open {config.out}/report.html; metrics.json names the policy to take"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(SelfTrainConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
