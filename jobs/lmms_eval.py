"""Run benchmarks of lmms-eval on an endpoint, such as `visvm serve`, and bring their results into one table.

lmms-eval has heavy dependencies, so it lives in an environment of its own, which uv makes when it is first
needed. Each task of each model is a process of its own: a run that broke off does what is missing. lmms-eval
scores a request that failed as an answer: such requests are looked for in the samples, and make the run fail.

  visvm serve --value runs/value/model
  visvm lmms-eval --endpoint http://127.0.0.1:8000/v1 --tasks pope mmstar cv_bench --out runs/lmms

--tasks takes lmms-eval's names, or "capabilities" (MM-Vet, MMBench, MMMU, MathVista, CV-Bench, LLaVA-Wild,
MMStar) and "hallucination" (AMBER, CHAIR, POPE). The endpoint's key is OPENAI_API_KEY, the judge's
JUDGE_API_KEY.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from jobs.runner.command import Refused, run
from visvm import storage
from visvm.config import Config

GROUPS = {
    "capabilities": (
        "mmvet",
        "mmbench_en_dev_static",
        "mmmu_val",
        "mathvista_testmini_format",
        "cv_bench",
        "llava_in_the_wild",
        "mmstar",
    ),
    "hallucination": ("amber_g", "coco_cap_chair", "pope"),
}
JUDGED, UNJUDGED = ("mmvet", "mathvista", "llava_in_the_wild", "mmbench"), ("mmbench_en_dev_static",)
TITLES = ("task", "metric", "model", "value", "standard error", "questions", "failed", "empty")
logger = logging.getLogger(__name__)


class LmmsEvalConfig(Config):
    """The endpoint, the benchmarks, and how they are run."""

    OPERATIONAL = Config.OPERATIONAL | {"endpoint", "concurrency", "timeout", "max_retries", "environment"}

    endpoint: str = Field(pattern="^https?://", description="base URL of the endpoint (.../v1)")
    out: str = Field(description="run folder: table.md, table.csv, metrics.json, TASK/MODEL/")
    models: tuple[str, ...] = Field(
        ("policy", "policy+search"), min_length=1, description="models that are asked at the endpoint"
    )
    tasks: tuple[str, ...] = Field(
        ("capabilities",), min_length=1, description='tasks of lmms-eval, "capabilities" or "hallucination"'
    )
    data: str | None = Field(
        None, description="folder with the data sets as ORG/NAME/data/SPLIT-*.parquet (default: the hub)"
    )
    limit: int | None = Field(None, ge=1, description="questions of each task (default: all)")
    judge: str | None = Field(
        None, pattern="^https?://", description="base URL of the judge that some tasks need (.../v1)"
    )
    judge_model: str = Field("gpt-4o-2024-11-20", description="model that judges")
    concurrency: int = Field(4, ge=1, description="requests at a time")
    timeout: int = Field(600, ge=1, description="seconds for a request")
    max_retries: int = Field(3, ge=1, description="tries of a request")
    max_failed_share: float = Field(0.0, ge=0, le=1, description="fail above this share of failed requests")
    packages: tuple[str, ...] = Field(
        ("lmms-eval==0.7.3", "filelock<4"), min_length=1, description="what uv installs"
    )
    environment: str | None = Field(
        None, description="folder of lmms-eval's environment (default: in VISVM_CACHE)"
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if storage.is_remote(self.out):
            raise ValueError(f"out = {self.out!r}: lmms-eval writes to folders of this machine only")
        judged = [task for task in self.task_names if task.startswith(JUDGED) and task not in UNJUDGED]
        if judged and self.judge is None:
            raise ValueError(f"{judged[0]} needs a judge: give --judge URL, or leave it out of --tasks")
        return self

    @property
    def task_names(self) -> list[str]:
        """Return the tasks, those of groups in place of their names, each once."""
        return list(dict.fromkeys(task for name in self.tasks for task in GROUPS.get(name, (name,))))


def work(config: LmmsEvalConfig) -> dict[str, Any]:
    """Run what has no result yet, then write the tables."""
    from visvm.metrics.lmms_eval import environment
    from visvm.report.table import csv_table, format_table, markdown_table

    cache = Path(os.environ.get("VISVM_CACHE") or "~/.cache/visvm").expanduser()
    folder = config.environment or cache / config.packages[0].replace("==", "-")
    python = environment(Path(folder).absolute(), config.packages)
    pairs = [(task, model) for task in config.task_names for model in config.models]
    rows = [row for task, model in pairs for row in _results(config, python, task, model)]
    print(format_table(TITLES, _cells(rows)), flush=True)
    storage.write(storage.join(config.out, "table.md"), markdown_table(TITLES, _cells(rows)) + "\n")
    storage.write(storage.join(config.out, "table.csv"), csv_table(rows))
    return {"rows": rows}


def _cells(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            *(row[key] for key in ("task", "metric", "model")),
            f"{row['value']:.4g}",
            "-" if row["stderr"] is None else f"{row['stderr']:.2g}",
            *(str(row[key]) for key in ("num_samples", "num_failed", "num_empty")),
        ]
        for row in rows
    ]


def _results(config: LmmsEvalConfig, python: Path, task: str, model: str) -> list[dict[str, Any]]:
    """Return the rows of a task and a model, from an earlier run if it is there.

    Raises:
        Refused: too many requests failed; the next run does them again.
    """
    from visvm.metrics.lmms_eval import read_results
    from visvm.metrics.lmms_eval import run as run_lmms_eval

    folder = Path(config.out).absolute() / task / model
    if not (rows := read_results(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        logger.info("%s with %s: log in %s", task, model, folder / "log.txt")
        _link_data(config, folder)
        run_lmms_eval(python, folder, _settings(config, task, model), _variables(config, task))
        rows = read_results(folder)
    for row in rows:
        if row["num_failed"] > config.max_failed_share * row["num_samples"]:
            shutil.rmtree(folder)
            raise Refused(
                f"{row['num_failed']} of {row['num_samples']} requests of {task} with {model} failed, and"
                f" would count as answers: {row['failure']}"
            )
    return [{"model": model, **row} for row in rows]


def _link_data(config: LmmsEvalConfig, folder: Path) -> None:
    """Let data sets be found by their names below the folder in which lmms-eval runs."""
    for one in Path(config.data).absolute().iterdir() if config.data else ():
        (folder / one.name).symlink_to(one)


def _settings(config: LmmsEvalConfig, task: str, model: str) -> dict[str, Any]:
    """Return lmms-eval's own configuration."""
    options = {
        "base_url": config.endpoint,
        "api_key": os.environ.get("OPENAI_API_KEY", "none"),
        "model": model,
        "timeout": config.timeout,
        "num_concurrent": config.concurrency,
        "max_retries": config.max_retries,
    }
    limit = {} if config.limit is None else {"limit": config.limit}
    return {
        "model": "openai",
        "model_args": ",".join(f"{key}={value}" for key, value in options.items()),
        "tasks": task,
        "batch_size": "1",
        "output_path": "results",
        "log_samples": True,
        **limit,
    }


def _variables(config: LmmsEvalConfig, task: str) -> dict[str, str]:
    """Return the environment variables that tasks read."""
    given = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} if config.data else {}
    if config.judge:
        # MMBench takes the address of the requests, other tasks the base.
        path = "/chat/completions" if task.startswith("mmbench") else ""
        given |= {"OPENAI_API_URL": config.judge.rstrip("/") + path, "MODEL_VERSION": config.judge_model}
        given |= {"OPENAI_API_KEY": os.environ.get("JUDGE_API_KEY", "none")}
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(LmmsEvalConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
