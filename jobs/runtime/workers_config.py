"""The configuration that every training job shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from visvm.config import ModelName, Place
from visvm.training.config import TrainingConfig


class WorkersConfig(TrainingConfig):
    """The workers that train."""

    WORLD_DEFAULTS: ClassVar[Mapping[str, Any]] = {}
    """Defaults for the policy "world": two million parameters need other rates than seven billion."""

    policy: ModelName = Field(description='directory or hub id of the policy to train, or "world"')
    out: Place = Field(description="run folder: model/, checkpoints/, tensorboard/, curve.jsonl")
    num_workers: int = Field(1, ge=1, description="training processes, one per GPU")
    min_workers: int | None = Field(
        None, ge=1, description="continue with as few if machines are lost (default: all); not with DeepSpeed"
    )
    max_failures: int = Field(
        3, ge=0, description="how often training resumes from its last checkpoint after a worker has died"
    )
    max_error_share: float = Field(
        0.5, ge=0, le=1, description="fail above this share of images that are gone, damaged or changed"
    )
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="auto, cpu or cuda")

    @model_validator(mode="before")
    @classmethod
    def _world_defaults(cls, data: Any) -> Any:
        is_world = isinstance(data, Mapping) and data.get("policy") == "world"
        return {**cls.WORLD_DEFAULTS, **data} if is_world else data

    @model_validator(mode="after")
    def _is_elastic(self) -> Self:
        least, most = self.least_workers, self.num_workers
        if least > most:
            raise ValueError(f"min_workers = {least} is more than num_workers = {most}")
        if least < most and self.deepspeed is not None:
            raise ValueError("min_workers: a DeepSpeed checkpoint fits one number of workers; leave it out")
        return self

    @property
    def least_workers(self) -> int:
        """Return the fewest workers that training continues with."""
        return self.num_workers if self.min_workers is None else self.min_workers
