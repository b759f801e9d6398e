"""The configuration of every job that takes images through a policy."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.inputs.stamps import image_stamps, model_stamps
from jobs.runner.hub import HubOptions
from jobs.runner.inputs import Inputs
from jobs.runner.part_files import FILE_SECONDS
from visvm.config import ModelName, Options, Place
from visvm.server_policy.names import ServedPolicy

if TYPE_CHECKING:
    import pyarrow as pa


class ImagesConfig(HubOptions):
    """The fields of every job that takes images through actors."""

    OPERATIONAL = HubOptions.OPERATIONAL | {"max_error_share", "commit_seconds"}

    images: Place = Field(description="folder of images, parquet file or COCO annotation .json")
    out: Place = Field(description="run folder")
    image_root: Place | None = Field(
        None, description="folder of a COCO json's images (else found beside it)"
    )
    reward: ModelName = Field(
        "auto",
        description='"auto" (the one the paper pairs with the policy), "world", local directory, hub id or'
        " ARCHITECTURE/WEIGHTS of open_clip",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on the CPU, bfloat16 on a GPU"
    )
    batch_size: int = Field(64, ge=1, description="units in a batch of an actor")
    patience: float = Field(3600, gt=0, description="fail after this many seconds without a finished batch")
    max_error_share: float = Field(0.5, ge=0, le=1, description="fail above this share of failed units")
    commit_seconds: float = Field(
        FILE_SECONDS, ge=0, description="most seconds before finished rows are written"
    )


class PipelineConfig(ImagesConfig, ServedPolicy):
    """The fields of every job that takes images through a policy."""

    OPERATIONAL = ImagesConfig.OPERATIONAL | {"min_actors", "max_actors", "num_gpus"}

    sample: int | None = Field(None, ge=1, description="use this many images, drawn by --seed")
    shard: str = Field(
        "0/1",
        pattern=r"^\d+/[1-9]\d*$",
        description="I/N: only the I-th of N equal parts of the images, by their ids",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every draw")
    prompts: str = Field("one", description='"one" drawn for each image, "all" nine, or a prompt itself')
    policy: ModelName = Field("world", description='"world", local directory, hub id, or http://HOST/v1')
    max_new_tokens: int = Field(512, ge=1, description="most tokens of a caption")
    top_p: float = Field(
        0.9, gt=0, le=1, description="nucleus sampling: share of the probability that is kept"
    )
    template: Options = Field({}, description="options of the chat template, e.g. enable_thinking=false")
    max_images: int = Field(64, ge=1, description="images in flight per actor")
    max_rows: int = Field(192, ge=1, description="candidates written at a time per actor")
    cache_mb: int | None = Field(
        None, ge=1, description="MiB for the keys and values of images and candidates; the rest waits"
    )
    processor_pixels: int = Field(
        4 * 2**20,
        ge=4096,
        description="pixels that a processor which keeps the size of images (Qwen, GLM) scales them down to",
    )
    compile: bool = Field(False, description="run the decoding step as one compiled graph")
    min_actors: int = Field(1, ge=1, description="policy actors at first")
    max_actors: int = Field(1, ge=1, description="policy actors at most")
    num_gpus: float = Field(0.8, gt=0, description="GPUs per policy actor, if the device is a GPU")

    @field_validator("prompts")
    @classmethod
    def _is_prompt(cls, value: str) -> str:
        if value not in ("one", "all") and " " not in value.strip():
            raise ValueError('expected "one", "all" or the text of a prompt')
        return value

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors = {self.min_actors} is more than max_actors = {self.max_actors}")
        return self

    @field_validator("shard")
    @classmethod
    def _is_part(cls, value: str) -> str:
        part, num = map(int, value.split("/"))
        if part >= num:
            raise ValueError(f"expected I/N with I from 0 to N - 1 = {num - 1}")
        return value

    @cached_property
    def units(self) -> pa.Table:
        """The images with their prompts, listed once for a run."""
        from jobs.pipeline.units import make_units

        return make_units(self)

    def inputs(self) -> Inputs:
        """Return the images and the models; the next run may have other images."""
        return Inputs(free=image_stamps(self.units["uri"].to_pylist()), fixed=model_stamps(self))

    @property
    def policy_options(self) -> dict[str, Any]:
        """Return how the policy samples, and how much it does at a time."""
        names = (
            "max_new_tokens",
            "top_p",
            "max_images",
            "max_rows",
            "cache_mb",
            "compile",
            "processor_pixels",
            "template",
        )
        seeds = {} if self.policy_seeds else {"seeds": False}
        return {name: getattr(self, name) for name in names} | seeds
