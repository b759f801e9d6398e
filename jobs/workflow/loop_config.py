"""The options of a whole loop: how many images, which searches, which captions policies are tuned on."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from jobs import finetune, train_value
from jobs.inputs.shared_paths import SharedPaths
from jobs.workflow.stages import check_options
from visvm.config import Place

ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # the method and the options of each row of the table
    "greedy": ("greedy", {}),
    "best_of_5": ("best_of_n", {"samples_per_temperature": 1}),
    "best_of_30": ("best_of_n", {}),
    "prm": ("prm", {}),
    "mcts": ("mcts", {}),
    "visvm": ("visvm", {}),
    "visvm_second_reward": ("visvm", {}),
    "reward_plus_future": ("reward_plus_future", {}),
}
LEARNED = {  # what the model of a row predicts, and the rollouts that it learns from
    "visvm": ("value", "rollouts"),
    "reward_plus_future": ("future", "rollouts"),
    "visvm_second_reward": ("value", "rollouts_second"),
}


class LoopConfig(SharedPaths):
    """The numbers of a loop; demo and reproduce set their own defaults."""

    out: Place = Field(description="folder of the run")
    seed: int = Field(0, ge=0, description="seed of every stage")
    num_train: int = Field(500, ge=2, description="training images: rollouts and value model")
    num_sft: int = Field(300, ge=2, description="training images captioned to fine-tune on")
    num_validation: int = Field(0, ge=0, description="images that the reward centre is chosen on")
    num_test: int = Field(150, ge=1, description="held-out images of the table")
    num_oracle: int = Field(0, ge=0, description="test images for the oracle look-ahead (0: none)")
    num_step_sizes: int = Field(0, ge=0, description="test images for the curve over --step-sizes")
    value_seeds: int = Field(1, ge=1, description="value models, each with its own seed")
    centres: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="reward centres to try, as shares of the mean reward"
    )
    step_sizes: tuple[int, ...] = Field((), description="step sizes K of the curve")
    methods: tuple[str, ...] = Field(
        ("greedy", "best_of_30", "prm", "mcts", "visvm"), min_length=1, description=", ".join(ROWS)
    )
    sft: tuple[str, ...] = Field(("greedy", "prm", "visvm"), description="methods to fine-tune on")
    num_actors: int = Field(2, ge=1, description="processes that write captions")
    value: dict[str, Any] = Field({}, description="more options of train-value")
    finetune: dict[str, Any] = Field({}, description="more options of finetune")

    @field_validator("methods", "sft")
    @classmethod
    def _are_rows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [row for row in value if row not in ROWS]:
            raise ValueError(f"{unknown[0]!r} is no row; expected some of {', '.join(ROWS)}")
        return value

    @field_validator("methods")
    @classmethod
    def _has_baselines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if missing := [row for row in ("greedy", "prm", "visvm") if row not in value]:
            raise ValueError(f"{missing[0]!r} is missing: the report compares the others with it")
        return value

    @model_validator(mode="after")
    def _check_loop(self) -> LoopConfig:
        check_options(train_value.TrainValueConfig, self.value, policy="world", rollouts=("rollouts",))
        check_options(finetune.FinetuneConfig, self.finetune, policy="world", captions=("captions",))
        if len(self.centres) > 1 and not self.num_validation:
            raise ValueError("several centres need --num-validation images to choose on")
        if max(self.num_oracle, self.num_step_sizes) > self.num_test:
            raise ValueError(f"num_oracle and num_step_sizes are some of the {self.num_test} test images")
        if unknown := [method for method in self.sft if method in LEARNED and method not in self.methods]:
            raise ValueError(f"sft on {unknown[0]} needs it among the methods")
        return self

    @property
    def learned(self) -> list[str]:
        """Return the rows that need a model of their own."""
        return [method for method in self.methods if method in LEARNED]
