"""The configuration that every training job shares."""

from __future__ import annotations

from pydantic import Field, model_validator

from visvm.config import Config, Place


class WorkersConfig(Config):
    """The workers that train."""

    out: Place = Field(description="run folder: model/, checkpoints/, tensorboard/, curve.jsonl")
    num_workers: int = Field(1, ge=1, description="training processes, one a GPU")
    min_workers: int | None = Field(
        None, ge=1, description="go on with as few when machines are lost (default: all); not with DeepSpeed"
    )
    max_failures: int = Field(
        3, ge=0, description="how often training goes on from its last checkpoint after a worker has died"
    )
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="auto, cpu or cuda")

    @model_validator(mode="after")
    def _is_elastic(self) -> WorkersConfig:
        least, most = self.least_workers, self.num_workers
        if least > most:
            raise ValueError(f"min_workers = {least} is more than num_workers = {most}")
        if least < most and getattr(self, "deepspeed", None) is not None:
            raise ValueError("min_workers: a DeepSpeed checkpoint fits one number of workers; leave it out")
        return self

    @property
    def least_workers(self) -> int:
        """Return the fewest workers that training continues with."""
        return self.num_workers if self.min_workers is None else self.min_workers
