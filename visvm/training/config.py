"""The configurations of training: what is learned, how, and on what share of the data."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from visvm.config import Config, Options, parse_options


class TDConfig(Config):
    """What is learned: the return, its units, and what ends it."""

    gamma: float = Field(0.9, ge=0, lt=1, description="discount of the next sentence's value")
    reward_centre: Literal["mean"] | float = Field(
        "mean", description="c in (r - c) / s: the reward of a sentence that is worth 0"
    )
    reward_scale: Literal["std"] | float = Field("std", description="s in (r - c) / s")
    predict: Literal["value", "future"] = Field("value", description="V, or the future F without r_i itself")
    terminal: bool = Field(True, description="the target of a last sentence is its reward alone")


class LoraSettings(Config):
    """LoRA: the rank of the matrices that are trained, the scale of their product, dropout before them."""

    rank: int = Field(16, ge=1, description="columns of each of the two matrices")
    alpha: float | None = Field(None, gt=0, description="the product counts alpha / rank (default: 2)")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the inputs that are dropped")

    @property
    def scale(self) -> float:
        """Return alpha."""
        return 2 * self.rank if self.alpha is None else self.alpha


TAGS = ("visvm", "arxiv:2412.03704")  # of every card


class CardOptions(Config):
    """What the model card says of licence and data."""

    license: str | None = Field(
        None, description="licence of the result, such as apache-2.0; else that of the model it began with"
    )
    datasets: tuple[str, ...] = Field((), description="hub ids of the images trained on, for the model card")


class TrainingConfig(CardOptions):
    """Weights, precision and checkpoints of a training run."""

    train_vision: bool = Field(True, description="train the vision encoder too")
    lora: Annotated[LoraSettings | None, BeforeValidator(parse_options)] = Field(
        None,
        description="train LoRA instead of all weights: rank=16, or rank=16,alpha=32,dropout=0.05; it takes"
        " a learning_rate of about 1e-4",
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps over which the rate rises")
    save_steps: float = Field(
        0.25, gt=0, description="evaluate and checkpoint every so many steps, or (below 1) share of an epoch"
    )
    bf16: bool = Field(False, description="compute in bfloat16, keep weights in float32")
    gradient_checkpointing: bool = Field(False, description="less memory for a third more time")
    deepspeed: dict[str, Any] | str | None = Field(
        None, description="DeepSpeed config (JSON or YAML file): shards the model; else it is replicated"
    )

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.save_steps >= 1 and self.save_steps != int(self.save_steps):
            raise ValueError("save_steps is a whole number of steps, or a share below 1")
        return self


class ValueTraining(TDConfig, TrainingConfig):
    """How a value model is trained; the rates suit a 7B model."""

    kind: Literal["model", "head"] = Field(
        "model",
        description="a model of its own, or a head on the policy's frozen states: closed form, kilobytes",
    )
    ridge: float = Field(1e-3, gt=0, description="head: penalty on its weights, for standardised states")

    state: Literal["sentence", "prefix"] = Field(
        "sentence", description="what V reads after the image: the sentence, or all sentences so far"
    )
    mark_end: bool = Field(True, description="end-of-text follows a sentence that ends its caption")
    epochs: int = Field(3, ge=1, description="passes over the rollouts")
    batch_size: int = Field(32, ge=1, description="images an optimiser step, over all workers")
    micro_batch_size: int = Field(2, ge=1, description="images a forward pass of one worker, at most")
    learning_rate: float = Field(1e-5, gt=0, description="peak of a cosine schedule")
    weight_decay: float = Field(0.0, ge=0, description="of AdamW")
    clip: float = Field(1.0, gt=0, description="largest norm of a step's gradient")
    held_out: float = Field(0.05, ge=0, lt=1, description="share of the images kept for evaluation")
    pixel_cache_mb: int = Field(1024, ge=0, description="MiB of preprocessed pixels each worker keeps")
    seed: int = Field(0, ge=0, description="order of the images")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.terminal and self.state == "prefix":
            raise ValueError("terminal = False is the published variant of state = 'sentence' only")
        return self


class SftConfig(TrainingConfig):
    """How a policy is fine-tuned; the defaults are the paper's for a 7B model."""

    objective: Literal["sft", "dpo", "step-dpo"] = Field(
        "sft",
        description="sft: learn captions; dpo, step-dpo: prefer the chosen side of pairs (visvm export)",
    )
    beta: float = Field(0.1, gt=0, description="dpo: how strongly it is held to the policy it began with")
    epochs: float = Field(3, gt=0, description="passes over the captions")
    learning_rate: float = Field(1e-6, gt=0, description="peak of a cosine schedule")
    batch_size: int = Field(128, ge=1, description="captions an optimiser step, over all workers")
    micro_batch_size: int = Field(4, ge=1, description="captions a forward pass of one worker")
    held_out: float = Field(0.02, ge=0, lt=1, description="share of the images kept for the eval loss")
    save_steps: float = Field(
        0.25, gt=0, description="a checkpoint every so many steps, or (below 1) share of the run"
    )
    seed: int = Field(0, description="order of the captions")
    template: Options = Field({}, description="options of the chat template, e.g. enable_thinking=false")


def read_deepspeed(config: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """Return a DeepSpeed config, read from a JSON or YAML file if ``config`` is its path.

    Raises:
        ValueError: the file cannot be read or is not a mapping.
    """
    from visvm import storage

    if not isinstance(config, str):
        return config
    try:
        data = yaml.safe_load(storage.read(config))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read DeepSpeed config {config}: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"DeepSpeed config {config} must be a mapping")
    return data
