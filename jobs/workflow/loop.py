"""The loop as stages: rollouts, value models, searched captions, policies tuned on them, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.workflow.loop_config import LEARNED, ROWS, LoopConfig
from jobs.workflow.stages import Metrics, Stages

CURVE = ("prm", "visvm")  # what is compared at every step size, and in the look-ahead probe


@dataclass
class Loop:
    """The images and stages of a run, and what one stage passes to the next.

    ``images`` has the images to learn from ("train"), to choose the centre on ("validation") and to judge on
    ("test"); ``coco`` the folder of their annotations, if they lie elsewhere; ``second_reward`` is the reward
    that the row "visvm_second_reward" learns from; ``trained`` the value models of rows that need not learn.
    """

    config: LoopConfig
    stages: Stages
    images: Mapping[str, str]
    coco: str | None = None
    second_reward: str | None = None
    trained: Mapping[str, str] = field(default_factory=dict)
    centres: dict[str, float] = field(default_factory=dict)

    def learn(self) -> None:
        """Make rollouts of the training images, and train the value and future models on them."""
        config, stages, sample = self.config, self.stages, self.config.num_train
        rewards = {"rollouts": {}, "rollouts_second": {"reward": self.second_reward}}
        for rollouts in dict.fromkeys(LEARNED[row][1] for row in self.learned):
            stages.rollouts(rollouts, self.images["train"], sample=sample, **rewards[rollouts])
        for row in self.learned:
            predict, rollouts = LEARNED[row]
            for seed in range(config.value_seeds if row == "visvm" else 1):
                options = {"seed": config.seed + seed, "predict": predict, **config.value}
                stages.value(_value(row, seed), rollouts, policy=self._policy, **options)

    @property
    def learned(self) -> list[str]:
        """Return the rows whose models are trained here."""
        return [row for row in self.config.learned if row not in self.trained]

    def choose_centres(self) -> dict[str, Any]:
        """Choose each learned row's centre: captions as long as greedy's on validation images.

        Only centres that reach greedy's recall count, if one does. The curves are returned.
        """
        shares, learned = self.config.centres, self.learned
        means = {row: self.stages.metrics(LEARNED[row][1])["reward_mean"] for row in learned}
        self.centres = {row: shares[0] * mean for row, mean in means.items()}
        if len(shares) == 1:
            return {}
        runs = {name: self._captions(name, "validation", name) for name in ("greedy", "prm")}
        for row in learned:
            for share in shares:
                name = f"{row}@{share:g}"
                runs[name] = self._captions(name, "validation", row, centre=share * means[row])
        rows = by_name(self.evaluate("validation", "validation", runs))
        curves = {
            row: [rows[f"{row}@{share:g}"] | {"method": row, "centre": share * mean} for share in shares]
            for row, mean in means.items()
        }
        self.centres = {row: match(curve, rows["greedy"])["centre"] for row, curve in curves.items()}
        return {"centre": curves, "centre_compared": [rows["greedy"], rows["prm"]]}

    def search(self) -> dict[str, str]:
        """Caption the test images by every method; return the folders by row."""
        runs = {row: self._test(row, row) for row in self.config.methods}
        for seed in range(1, self.config.value_seeds):
            value = self._value_model("visvm", seed)
            runs[f"visvm_seed_{seed}"] = self._test(f"visvm_seed_{seed}", "visvm", value=value)
        if self.config.num_oracle:
            options = {"sample": self.config.num_oracle, "centre": self.centres["visvm"]}
            runs["oracle"] = self._test("oracle", "oracle", **options)
        return runs

    def distil(self) -> dict[str, str]:
        """Fine-tune policies on searched captions of training images; return their greedy test captions."""
        runs = {}
        for row in self.config.sft:
            captions = self._captions(row, "train", row, sample=self.config.num_sft)
            options = {"policy": self._policy, **self.config.finetune}
            policy = self.stages.finetune(f"sft/{row}", captions, **options)
            runs[f"sft_{row}"] = self._test(f"sft_{row}", "greedy", policy=policy)
        return runs

    def step_sizes(self) -> dict[str, Any]:
        """Return the results of PRM and VisVM at every step size, on the same test images."""
        if not (self.config.step_sizes and self.config.num_step_sizes):
            return {}
        pairs = [(row, k) for row in CURVE for k in self.config.step_sizes]
        sample = self.config.num_step_sizes
        runs = {f"{row}@{k}": self._test(f"{row}@{k}", row, step_size=k, sample=sample) for row, k in pairs}
        rows = by_name(self.evaluate("step_sizes", "test", runs))
        curves: dict[str, list[dict[str, Any]]] = {row: [] for row in CURVE}
        for row, k in pairs:
            curves[row].append(rows[f"{row}@{k}"] | {"method": row, "step_size": k})
        return {"step_size": curves}

    def units(self, units: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of PRM and VisVM whose steps are sentences, paragraphs or blocks of tokens."""
        sample, pairs = self.config.num_step_sizes, [(row, unit) for unit in units for row in CURVE]
        runs = {
            f"{row}, {unit}": self._test(f"{row}-{unit.replace(':', '')}", row, unit=unit, sample=sample)
            for row, unit in pairs
        }
        return self.evaluate("units", "test", runs)["rows"] if sample and runs else []

    def probe(self, sentences: Sequence[int]) -> dict[str, str]:
        """Choose one sentence of each test caption by PRM and by VisVM; return the folders by row."""
        pairs = [(row, number) for number in sentences for row in CURVE]
        return {
            f"probe_{row}@{number}": self._test(f"probe_{row}@{number}", row, choose_at=number)
            for row, number in pairs
        }

    def evaluate(self, name: str, split: str, runs: Mapping[str, str]) -> Metrics:
        """Judge the captions of folders by the annotations of a split."""
        return self.stages.evaluation(f"evaluation/{name}", self.coco or self.images[split], runs)

    def options_of(self, row: str) -> dict[str, Any]:
        """Return the options of caption and answer that write a row of the table."""
        method, options = ROWS.get(row, (row, {}))
        if row not in LEARNED:
            return {"method": method, **options}
        if row in self.trained:  # with the centre that it was trained with
            return {"method": method, **options, "value": self.trained[row]}
        return {"method": method, **options, "value": self._value_model(row), "centre": self.centres[row]}

    def _test(self, name: str, row: str, **options: Any) -> str:
        return self._captions(name, "test", row, **{"sample": self.config.num_test, **options})

    def _captions(self, name: str, split: str, row: str, **options: Any) -> str:
        options = {**self.options_of(row), **options}
        return self.stages.captions(f"captions/{split}/{name}", self.images[split], **options)

    def _value_model(self, row: str, seed: int = 0) -> str:
        return self.stages.path(_value(row, seed)) + "/model"

    @property
    def _policy(self) -> str:
        return self.stages.common["policy"]


def world_images(config: LoopConfig, stages: Stages) -> dict[str, str]:
    """Make training, validation and test images, from three splits of the world; return their folders."""
    counts = {
        "train": max(config.num_train, config.num_sft),
        "validation": config.num_validation,
        "test": config.num_test,
    }
    return {
        split: stages.images(f"images/{split}", split=split, count=count)
        for split, count in counts.items()
        if count
    }


def _value(row: str, seed: int) -> str:
    predict, rollouts = LEARNED[row]
    return f"value/{predict}{rollouts.removeprefix('rollouts')}-{seed}"


def by_name(result: Metrics) -> dict[str, dict[str, Any]]:
    """Return the rows of an evaluation by their method."""
    return {row["method"]: row for row in result["rows"]}


def match(curve: Sequence[Mapping[str, Any]], greedy: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row nearest to ``greedy`` in length, of those that reach its recall, or the best recall."""
    covering = [row for row in curve if row["recall"] >= greedy["recall"]]
    if not covering:
        return max(curve, key=lambda row: row["recall"])
    return min(covering, key=lambda row: abs(row["num_sentences"] - greedy["num_sentences"]))
