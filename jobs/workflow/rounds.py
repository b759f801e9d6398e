"""The rounds of self-training: what each learns from, and when they end, by validation images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs import caption, finetune, train_value
from jobs.workflow.stages import Stages
from visvm.search import METHODS

if TYPE_CHECKING:
    from jobs.self_train import SelfTrainConfig

Row = Mapping[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounds:
    """Runs the stages of each round in folders below its own, on the images ``train`` and ``validation``."""

    config: SelfTrainConfig
    stages: Stages
    train: str
    validation: str | None

    def run(self, number: int, policy: str, base: Row | None) -> str:
        """Run round ``number`` with ``policy``; return the directory of its new policy.

        ``base`` is the row of the base policy on validation images, if there are any.
        """
        name, options = f"round-{number}", {"policy": policy, **self.config.caption}
        if caption.PREDICTS.get(METHODS[self.config.method].needs):
            options |= self._scorer(number, policy)
            if self.config.centres and base is not None:
                options["centre"] = self._centre(name, options, base)
        captions = self.stages.captions(f"{name}/captions", self.train, method=self.config.method, **options)
        learned = self._exported(number, captions, policy)
        tuning = {**self._rates(finetune.FinetuneConfig.WORLD_DEFAULTS), **self.config.finetune}
        return self.stages.finetune(
            f"{name}/policy", learned, objective=self.config.objective, **{**tuning, "policy": policy}
        )

    def validate(self, number: int, policy: str) -> Row | None:
        """Return the row of a round's policy on the validation images, decoded greedily."""
        if self.validation is None:
            return None
        name = f"round-{number}/validation"
        captions = self.stages.captions(f"{name}/captions", self.validation, method="greedy", policy=policy)
        rows = self.stages.evaluation(f"{name}/evaluation", self.validation, {f"round_{number}": captions})
        return rows["rows"][0]

    def _scorer(self, number: int, policy: str) -> dict[str, Any]:
        """Return the options of caption that name the value model or head; train it if it is fresh."""
        config = self.config
        first = number == 1 or config.value == "fresh"
        name = f"round-{number if first else 1}"
        if first:
            rollouts = f"{name}/rollouts"
            self.stages.rollouts(rollouts, self.train, policy=policy, **config.generate_triples)
            predict = caption.PREDICTS[METHODS[config.method].needs]
            given = {**self._rates(train_value.TrainValueConfig.WORLD_DEFAULTS), **config.train_value}
            self.stages.value(f"{name}/value", rollouts, **{**given, "policy": policy, "predict": predict})
        model = f"{self.stages.path(name)}/value/model"
        judged = config.has_head and {"min_reward", "drop_below"} & config.caption.keys()
        return {"value": model, **({"reward": model} if judged else {})}

    def _centre(self, name: str, options: Mapping[str, Any], base: Row) -> float:
        """Return the reward centre for this round's captions, chosen on validation images."""
        value = name if self.config.value == "fresh" else "round-1"
        mean = self.stages.metrics(f"{value}/rollouts")["reward_mean"]
        assert self.validation is not None
        runs = {
            f"{share:g}": self.stages.captions(
                f"{name}/centres/{share:g}",
                self.validation,
                method=self.config.method,
                **{**options, "centre": share * mean},
            )
            for share in self.config.centres
        }
        rows = self.stages.evaluation(f"{name}/centres/evaluation", self.validation, runs)["rows"]
        chosen = choose_centre(rows, base["recall"] + self.config.recall_margin)
        logger.info("%s: centre %s of the mean reward", name, chosen)
        return float(chosen) * mean

    def _exported(self, number: int, captions: str, policy: str) -> str:
        """Return the run with what is learned of the captions."""
        config, given = self.config, dict(self.config.export)
        if config.objective == "dpo":
            other = f"round-{number}/greedy"
            given["rejected"] = (self.stages.captions(other, self.train, method="greedy", policy=policy),)
        if given.get("base_share"):
            base = self.stages.captions("round-0/train", self.train, method="greedy", policy=config.policy)
            given["base"] = (base,)
        return self.stages.export(f"round-{number}/data", captions, to=config.objective, **given)

    def _rates(self, defaults: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the world's defaults, which also suit the policies tuned from it."""
        return defaults if self.config.policy == "world" else {}


def choose_centre(rows: Sequence[Row], recall: float) -> str:
    """Return the name of the row of lowest CHAIRs among those that reach ``recall``, else of best recall."""
    reaching = [row for row in rows if row["recall"] >= recall]
    if reaching:
        return min(reaching, key=lambda row: row["chair_s"])["method"]
    return max(rows, key=lambda row: row["recall"])["method"]


def reasons_to_stop(now: Row, best: Row, base: Row, config: SelfTrainConfig) -> list[str]:
    """Return why a round's policy is not taken: worse than ``best`` in CHAIRs, or than the base in others."""
    limits = {
        "chair_s": now["chair_s"] - best["chair_s"],
        "recall": base["recall"] - now["recall"] - config.max_recall_loss,
        "repetition": now["repetition"] - base["repetition"] - config.max_repetition_rise,
        "true objects a caption": true_objects(base) - true_objects(now) - config.max_object_loss,
    }
    return [name for name, excess in limits.items() if excess > 0]


def true_objects(row: Row) -> float:
    """Return how many distinct objects a caption names that are there."""
    return row["precision"] * row["num_objects"]
