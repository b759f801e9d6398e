"""AMBER's metrics of a model's answers: CHAIR, Cover, Hal, Cog, and yes/no questions by type.

--amber is the repository of AMBER's authors (or its data folder). Answers are theirs, a JSON list of
{"id", "response"}, or the folder of `visvm answer`. Captions need NLTK's data (`visvm data nltk`), and
count similar words as the same by --similar (made once by `visvm data amber-similarity`); without it
exact words only, which gives other figures than published ones.

  visvm amber --answers answers.json --amber AMBER/ --similar similar.json --out runs/amber
  visvm amber --answers greedy=runs/a visvm=runs/b --amber AMBER/ --out runs/amber
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from jobs.inputs.named_paths import named_paths
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps_of
from visvm import storage
from visvm.config import Config

if TYPE_CHECKING:
    from visvm.metrics.amber_folder import Judged
    from visvm.metrics.bootstrap import Resampling

logger = logging.getLogger(__name__)


class AmberConfig(Config):
    """Configuration of amber: the answers, the benchmark's folder, the table of similar words."""

    answers: list[str] = Field(min_length=1, description="[NAME=]PATH of a JSON file or answer run, each")
    amber: str = Field(description="folder of AMBER's authors")
    out: str = Field(description="run folder: metrics.json")
    tagger: Literal["nltk", "none"] = Field(
        "nltk", description="none: every word counts as a noun; its figures are not as published"
    )
    similar: str | None = Field(None, description="table of similar words (default: exact words only)")
    num_resamples: int = Field(2000, ge=100, description="bootstrap resamples of the images")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")

    def inputs(self) -> Inputs:
        """Return the answers, and what they are judged by."""
        given = [*named_paths(self.answers).values(), self.amber, *([self.similar] if self.similar else [])]
        return Inputs(free=stamps_of(map(storage.absolute, given)))


def work(config: AmberConfig) -> dict[str, Any]:
    """Judge every file of answers and print the tables."""
    from visvm.metrics.amber_folder import Amber
    from visvm.metrics.bootstrap import Resampling

    amber = Amber.read(config.amber, config.similar, tagger=config.tagger)
    if config.similar is None and config.tagger == "nltk":
        logger.warning("no --similar: only exact words count, so CHAIR, Cover and Cog are not as published")
    judged = {name: amber.judge(path) for name, path in named_paths(config.answers).items()}
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    rows = {name: amber.summary(one, resampling) for name, one in judged.items()}
    paired = [_difference(a, b, judged, resampling) for b, a in itertools.combinations(judged, 2)]
    _show(rows, paired)
    conditions = {"tagger": config.tagger, "num_resamples": config.num_resamples}
    return {"rows": rows, "paired": paired, **conditions}


def _difference(a: str, b: str, judged: Mapping[str, Judged], resampling: Resampling) -> dict[str, Any]:
    """Return the differences a - b of all metrics over the images that both answered for."""
    from visvm.metrics import amber, amber_questions

    questions = {
        name: amber_questions.METRICS.add_up((image, counts) for _, image, counts in judged[name].questions)
        for name in (a, b)
    }
    return {
        "a": a,
        "b": b,
        "generative": amber.METRICS.differences(judged[a].captions, judged[b].captions, resampling),
        "discriminative": amber_questions.METRICS.differences(questions[a], questions[b], resampling),
    }


def _show(rows: Mapping[str, dict[str, Any]], paired: Sequence[dict[str, Any]]) -> None:
    from visvm.metrics import amber, amber_questions
    from visvm.report.benchmark_table import differences_table, metrics_table

    tables = {"generative": amber.METRICS, "discriminative": amber_questions.METRICS}
    for task, ratio_metrics in tables.items():
        names = list(ratio_metrics.metrics)
        found = {name: row[task] for name, row in rows.items() if row[task]}
        if task == "discriminative":
            found = {f"{name}, {group}": one for name, row in found.items() for group, one in row.items()}
        if found:
            print(f"{task} task, %\n{metrics_table(found, names)}\n")
        if shared := [{"a": one["a"], "b": one["b"], **one[task]} for one in paired if one[task]]:
            print(f"{differences_table(shared, names)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(AmberConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
