"""The stages of a run as a plan: the code that would run them lists them, with GPUs, hours and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.capacity.cluster_spec import GB, Cluster
from jobs.capacity.memory import size_of
from jobs.capacity.rates import Rates
from jobs.caption import CaptionConfig
from jobs.finetune import FinetuneConfig
from jobs.generate_triples import GenerateConfig
from jobs.inputs.shared_paths import SharedPaths
from jobs.train_value import TrainValueConfig
from jobs.workflow.stages import Metrics, Options, Stages
from visvm.config import Config, load
from visvm.report.table import format_table

JOBS: dict[type[Config], str] = {
    GenerateConfig: "generate-triples",
    TrainValueConfig: "train-value",
    FinetuneConfig: "finetune",
    CaptionConfig: "caption",
}
ROW_BYTES = 10_100  # of a rollout of five responses: measured, docs/scaling.md
CANDIDATE_BYTES = 150  # of a candidate in a caption's trace: a sentence and its score
STATE_BYTES = 16  # of a parameter: the model that is kept, and weights and Adam's moments of a checkpoint
QUESTIONS = {"amber": 1004, "mmhal": 96}  # images of AMBER's generative task, questions of MMHal-Bench


@dataclass(frozen=True)
class PlannedStages(Stages):
    """Lists stages in place of running them; ``sizes`` has the images of train-value and finetune."""

    sizes: Mapping[str, int] = field(default_factory=dict)
    listed: list[tuple[str, Config]] = field(default_factory=list)

    @property
    def is_planned(self) -> bool:
        return True

    def run(
        self, name: str, work: Callable[[Any], Metrics], config_class: type[Config], options: Options
    ) -> Metrics:
        """List a stage; a model that is yet to be trained counts as large as what it is trained from."""
        known = {key: self._known(key, value) for key, value in options.items()}
        shared = {"shared_paths": self.shared_paths} if issubclass(config_class, SharedPaths) else {}
        self.listed.append((name, load(config_class, out=self.path(name), **{**known, **shared})))
        return self.metrics(name)

    def evaluation(self, name: str, coco: str, captions: Mapping[str, str]) -> Metrics:
        """List the evaluation; its figures are zeros."""
        super().evaluation(name, coco, captions)
        rows = [{"method": row, "recall": 0.0, "num_sentences": 0.0} for row in captions]
        return {"rows": rows, "paired": []}

    def metrics(self, name: str) -> Metrics:
        """Return what stages ask of one another."""
        return {"reward_mean": 1.0}

    def _known(self, key: str, value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(f"{self.out}/"):
            return value
        return {"value": None, "policy": self.common["policy"], "reward": self.common["reward"]}.get(
            key, value
        )


def facts(stages: PlannedStages, cluster: Cluster, rates: Rates) -> list[dict[str, Any]]:
    """Return a row per stage: images, GPUs, hours and disk; None where the formulas do not say."""
    return [_facts(stages, name, cluster, rates) | {"stage": name} for name, _ in stages.listed]


def _facts(stages: PlannedStages, name: str, cluster: Cluster, rates: Rates) -> dict[str, Any]:
    from jobs.capacity.job_plan import make_plan

    config = dict(stages.listed)[name]
    job = next((job for kind, job in JOBS.items() if isinstance(config, kind)), None)
    row: dict[str, Any] = {"images": None, "gpus": None, "hours": None, "disk_gb": None}
    if job is None:
        return row | {"problems": []}
    count = QUESTIONS.get(name.partition("/")[0]) or stages.sizes.get(job) or getattr(config, "sample", None)
    plan = make_plan(job, config, cluster, num_images=count, rates=rates)  # type: ignore[arg-type]
    found = plan.facts()
    gpus = sum(stage["gpus"] * min(stage["max_actors"], stage["room_for"]) for stage in found["stages"])
    return {
        **row,
        "images": found["num_images"],
        "gpus": gpus,
        "hours": found["hours"],
        "disk_gb": _disk(config, found["num_images"]) / GB,
        "problems": found["problems"],
    }


def _disk(config: Config, num_images: int) -> float:
    """Return the bytes that a stage leaves: rows of its images, or a model with its checkpoint."""
    if isinstance(config, TrainValueConfig | FinetuneConfig):
        return STATE_BYTES * size_of(config.policy).num_parameters
    candidates = 0
    if isinstance(config, CaptionConfig) and config.method not in ("greedy", "sample"):
        candidates = 10 * (1 + len(config.temperatures) * config.step_size)  # about ten steps
    return num_images * (ROW_BYTES + candidates * CANDIDATE_BYTES)


def table(rows: list[dict[str, Any]], cluster: Cluster) -> str:
    """Return the plan as text, with the sums of hours and disk."""
    columns = ("images", "gpus", "hours", "disk_gb")
    cells = [[row["stage"], *(_cell(row[name]) for name in columns)] for row in rows]
    sums = [sum(row[name] or 0 for row in rows) for name in ("hours", "disk_gb")]
    unknown = sum(row["images"] is not None and row["hours"] is None for row in rows)
    note = f"; the hours of {unknown} stages are not known (no GPU, or no formula)" if unknown else ""
    text = format_table(("stage", "images", "GPUs", "hours", "GB"), cells)
    return f"{text}\n\n{len(rows)} stages on {cluster}: {sums[0]:.3g} hours, {sums[1]:.3g} GB{note}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
