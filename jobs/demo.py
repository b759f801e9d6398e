"""The whole loop on the embedded world: rollouts, value model, search, fine-tuning, table and report.

    visvm demo                                  about ten minutes on two cores
    visvm demo --size full --out runs/full      a thousand test images, every curve; hours

Every stage is another job in a folder below OUT; if it is interrupted, the same command resumes with the
stage it was in. Writes OUT/metrics.json and OUT/report.html.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs import finetune, train_value
from jobs.inputs.shared_paths import SharedPaths
from jobs.runner.command import run
from jobs.workflow.stages import Metrics, Stages, check_options
from visvm import storage
from visvm.config import Place
from visvm.search import METHODS

FULL = {
    "num_train": 3000,
    "num_sft": 2000,
    "num_validation": 200,
    "num_test": 1000,
    "num_oracle": 200,
    "num_step_sizes": 150,
    "methods": ("greedy", "best_of_5", "best_of_30", "prm", "mcts", "visvm", "reward_plus_future"),
    "value_seeds": 3,
    "centres": (0.85, 0.9, 0.92, 0.94, 0.96, 1.0),
    "step_sizes": (1, 2, 4, 8, 16),
    "value": {"epochs": 2},
}
LEARNED = {"visvm": "value", "reward_plus_future": "future"}
ROWS = {  # the method and the options of each row of the table
    "greedy": ("greedy", {}),
    "best_of_5": ("best_of_n", {"samples_per_temperature": 1}),
    "best_of_30": ("best_of_n", {}),
    "prm": ("prm", {}),
    "mcts": ("mcts", {}),
    "visvm": ("visvm", {}),
    "reward_plus_future": ("reward_plus_future", {}),
}
logger = logging.getLogger(__name__)


class DemoConfig(SharedPaths):
    """The numbers of the demo; --size sets those that are not given."""

    out: Place = Field("runs/demo", description="folder of the run")
    size: Literal["small", "full"] = Field("small", description="small or full")
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
    num_examples: int = Field(12, ge=0, description="test images in the report")
    num_actors: int = Field(2, ge=1, description="processes that write captions")
    value: dict[str, Any] = Field({}, description="more options of train-value")
    finetune: dict[str, Any] = Field({}, description="more options of finetune")

    @model_validator(mode="before")
    @classmethod
    def _size(cls, data: Any) -> Any:
        is_full = isinstance(data, Mapping) and data.get("size") == "full"
        return {**FULL, **data} if is_full else data

    @field_validator("sft")
    @classmethod
    def _are_methods(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [method for method in value if method not in METHODS]:
            raise ValueError(f"{unknown[0]!r} is no method; expected some of {', '.join(METHODS)}")
        return value

    @field_validator("methods")
    @classmethod
    def _are_rows(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [row for row in value if row not in ROWS]:
            raise ValueError(f"{unknown[0]!r} is no row; expected some of {', '.join(ROWS)}")
        if missing := [row for row in ("greedy", "prm", "visvm") if row not in value]:
            raise ValueError(f"{missing[0]!r} is missing: the report compares the others with it")
        return value

    @model_validator(mode="after")
    def _check(self) -> DemoConfig:
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
        """Return the methods that need a model of their own."""
        return [method for method in self.methods if method in LEARNED]


class Demo:
    """The images and stages of a run, and what one stage passes to the next."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        common = {"policy": "world", "reward": "world", "min_actors": config.num_actors}
        self.stages = Stages(
            storage.absolute(config.out),
            config.seed,
            {**common, "max_actors": config.num_actors, "batch_size": 32},
            config.shared_paths,
        )
        self.centres: dict[str, float] = {}

    def images(self) -> None:
        """Make training, validation and test images, from three splits of the world."""
        counts = {
            "train": max(self.config.num_train, self.config.num_sft),
            "validation": self.config.num_validation,
            "test": self.config.num_test,
        }
        for split, count in counts.items():
            if count:
                self.stages.images(f"images/{split}", split=split, count=count)

    def learn(self) -> None:
        """Make rollouts of the training images, and train the value models and the future model on them."""
        train, stages, config = self.stages.path("images/train"), self.stages, self.config
        stages.rollouts("rollouts", train, sample=config.num_train)
        for method in config.learned:
            for seed in range(config.value_seeds if method == "visvm" else 1):
                options = {"seed": config.seed + seed, "predict": LEARNED[method], **config.value}
                stages.value(self._value(method, seed), "rollouts", policy="world", **options)

    def choose_centres(self) -> dict[str, Any]:
        """Choose each learned method's centre: captions as long as greedy's on validation images.

        Only centres that reach greedy's recall count, if one does. The curves are returned.
        """
        mean = self.stages.metrics("rollouts")["reward_mean"]
        self.centres = dict.fromkeys(self.config.learned, self.config.centres[0] * mean)
        if len(self.config.centres) == 1:
            return {}
        images = self.stages.path("images/validation")
        runs = {name: self._captions(name, "validation", images, name) for name in ("greedy", "prm")}
        for method in self.config.learned:
            for share in self.config.centres:
                name = f"{method}@{share:g}"
                runs[name] = self._captions(name, "validation", images, method, centre=share * mean)
        rows = by_name(self.stages.evaluation("evaluation/validation", images, runs))
        curves = {
            method: [
                rows[f"{method}@{share:g}"] | {"method": method, "centre": share * mean}
                for share in self.config.centres
            ]
            for method in self.config.learned
        }
        self.centres = {method: match(curve, rows["greedy"])["centre"] for method, curve in curves.items()}
        return {"centre": curves, "centre_compared": [rows["greedy"], rows["prm"]]}

    def search(self) -> dict[str, str]:
        """Caption the test images by every method; return the folders by method."""
        runs = {row: self._test(row, ROWS[row][0], **ROWS[row][1]) for row in self.config.methods}
        for seed in range(1, self.config.value_seeds):
            value = self._value_model("visvm", seed)
            runs[f"visvm_seed_{seed}"] = self._test(f"visvm_seed_{seed}", "visvm", value=value)
        if self.config.num_oracle:
            centre = self.centres["visvm"]
            runs["oracle"] = self._test("oracle", "oracle", sample=self.config.num_oracle, centre=centre)
        return runs

    def distil(self) -> dict[str, str]:
        """Fine-tune policies on searched captions of training images; return their greedy test captions."""
        images, runs = self.stages.path("images/train"), {}
        for method in self.config.sft:
            captions = self._captions(method, "train", images, method, sample=self.config.num_sft)
            policy = self.stages.finetune(f"sft/{method}", captions, policy="world", **self.config.finetune)
            runs[f"sft_{method}"] = self._test(f"sft_{method}", "greedy", policy=policy)
        return runs

    def step_sizes(self) -> dict[str, Any]:
        """Return the results of PRM and VisVM at every step size, on the same test images."""
        if not (self.config.step_sizes and self.config.num_step_sizes):
            return {}
        options = {"sample": self.config.num_step_sizes}
        runs = {
            f"{method}@{k}": self._test(f"{method}@{k}", method, step_size=k, **options)
            for method in ("prm", "visvm")
            for k in self.config.step_sizes
        }
        result = self.stages.evaluation("evaluation/step_sizes", self.stages.path("images/test"), runs)
        rows = by_name(result)
        curves = {
            method: [
                rows[f"{method}@{k}"] | {"method": method, "step_size": k} for k in self.config.step_sizes
            ]
            for method in ("prm", "visvm")
        }
        return {"step_size": curves}

    def _test(self, name: str, method: str, **options: Any) -> str:
        return self._captions(name, "test", self.stages.path("images/test"), method, **options)

    def _captions(self, name: str, split: str, images: str, method: str, **options: Any) -> str:
        if method in LEARNED:
            learned = {"value": self._value_model(method), "centre": self.centres[method]}
            options = {**learned, **options}
        return self.stages.captions(f"captions/{split}/{name}", images, method=method, **options)

    def _value(self, method: str, seed: int = 0) -> str:
        return f"value/{LEARNED[method]}-{seed}"

    def _value_model(self, method: str, seed: int = 0) -> str:
        return self.stages.path(self._value(method, seed)) + "/model"


def work(config: DemoConfig) -> dict[str, Any]:
    """Follow the recipe, then write the report and print the table with the differences that matter."""
    from jobs.workflow import demo_report
    from visvm.report.table import paired_table, results_table

    demo = Demo(config)
    demo.images()
    demo.learn()
    curves = demo.choose_centres()
    runs = demo.search() | demo.distil()
    curves |= demo.step_sizes()
    result = demo.stages.evaluation("evaluation/test", demo.stages.path("images/test"), runs)
    metrics = {
        "rows": result["rows"],
        "paired": result["paired"],
        "calibration": result.get("calibration", {}),  # an evaluation of an earlier version has none
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "centres": demo.centres,
        "curves": curves,
    }
    demo_report.write(demo.stages, runs, metrics)
    print(f"\n{results_table(metrics['rows'])}")
    print(f"\n{paired_table(demo_report.main_differences(metrics['paired']))}\n")
    return metrics


def by_name(result: Metrics) -> dict[str, dict[str, Any]]:
    """Return the rows of an evaluation by their method."""
    return {row["method"]: row for row in result["rows"]}


def match(curve: Sequence[Mapping[str, Any]], greedy: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row nearest to ``greedy`` in length, of those that reach its recall, or the best recall."""
    covering = [row for row in curve if row["recall"] >= greedy["recall"]]
    if not covering:
        return max(curve, key=lambda row: row["recall"])
    return min(covering, key=lambda row: abs(row["num_sentences"] - greedy["num_sentences"]))


def _next(config: DemoConfig) -> str:
    return f"open {config.out}/report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(DemoConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
