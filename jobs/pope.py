"""POPE: make yes/no questions on objects from COCO annotations, and evaluate answers to them.

`make` samples as its authors do and writes pope_random.json, pope_popular.json and pope_adversarial.json,
in their format. `score` takes these, or the authors' own files, and answers by question_id or in order: a
JSON file or JSON lines with "answer", or the folder of `visvm answer`.

  visvm pope make --coco annotations/ --out runs/pope
  visvm answer --questions runs/pope/pope_random.json --images val2014/ --out runs/answers
  visvm pope score --questions runs/pope/pope_random.json --answers greedy=runs/answers --out runs/score
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import Field

from jobs.inputs.named_paths import named_paths
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps_of
from visvm import storage
from visvm.config import Config, did_you_mean

logger = logging.getLogger(__name__)


class MakeConfig(Config):
    """The annotations, and how many questions are made."""

    coco: str = Field(description="folder with COCO's instances_*.json")
    out: str = Field(description="folder for the questions")
    num_images: int = Field(500, ge=1, description="images, drawn by --seed")
    num_objects: int = Field(3, ge=1, description="objects that are asked for per image, and absent ones")
    seed: int = Field(0, ge=0, description="seed of every draw")


class ScoreConfig(Config):
    """The questions with their labels, and the answers."""

    questions: str = Field(description="questions with labels, one of POPE's files")
    answers: list[str] = Field(min_length=1, description="[NAME=]PATH of a JSON file or answer run, each")
    out: str = Field(description="run folder: metrics.json")
    num_resamples: int = Field(2000, ge=100, description="bootstrap resamples of the images")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")

    def inputs(self) -> Inputs:
        """Return the answers, and the questions with their labels."""
        given = [*named_paths(self.answers).values(), storage.absolute(self.questions)]
        return Inputs(free=stamps_of(given))


def make(config: MakeConfig) -> dict[str, Any]:
    """Draw images with enough objects and write the questions of each strategy."""
    import random

    from visvm.metrics import pope
    from visvm.metrics.coco import objects_by_file

    found = objects_by_file(config.coco)
    usable = [image for image, objects in found.items() if len(objects) >= config.num_objects]
    if len(usable) < config.num_images:
        raise ValueError(
            f"{config.coco}: {len(usable)} of {len(found)} images have {config.num_objects} objects,"
            f" fewer than num_images = {config.num_images}"
        )
    drawn = random.Random(config.seed).sample(usable, config.num_images)
    images = {image: found[image] for image in drawn}
    counts = {}
    for strategy in get_args(pope.Strategy):
        questions = pope.make_questions(images, strategy, num_objects=config.num_objects, seed=config.seed)
        lines = [json.dumps(question) + "\n" for question in questions]
        storage.write(storage.join(config.out, f"pope_{strategy}.json"), "".join(lines))
        counts[strategy] = len(questions)
    return {"num_images": len(images), "num_questions": counts}


def score(config: ScoreConfig) -> dict[str, Any]:
    """Judge every file of answers and print the tables."""
    from visvm.metrics import pope
    from visvm.metrics.bootstrap import Resampling
    from visvm.report.benchmark_table import differences_table, metrics_table

    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    judged = {name: _judge(config.questions, path) for name, path in named_paths(config.answers).items()}
    rows = {
        name: pope.METRICS.evaluate(one, resampling) | {"counts": pope.METRICS.totals(one)}
        for name, one in judged.items()
    }
    paired = [
        {"a": a, "b": b} | pope.METRICS.differences(judged[a], judged[b], resampling)
        for b, a in itertools.combinations(judged, 2)
    ]
    metrics = list(pope.METRICS.metrics)
    print(metrics_table(rows, metrics))
    if paired:
        print("\n" + differences_table(paired, metrics))
    return {"rows": rows, "paired": paired, "num_resamples": config.num_resamples}


def _judge(questions: str, answers: str) -> dict[str, Any]:
    """Return the counts of each image: every question has one answer, by its id or, without ids, in order."""
    from visvm.metrics import pope
    from visvm.metrics.qa_files import IDS, id_of, read_answers, read_questions, read_records

    asked, records = read_questions(questions), read_records(questions)
    given, have_ids = read_answers(answers), any(key in read_records(answers)[0] for key in IDS)
    ids = [id_of(record, i) if have_ids else str(i) for i, record in enumerate(records)]
    found = dict(given)
    if len(given) != len(ids) or set(ids) != found.keys():
        missing = [one for one in ids if one not in found]
        raise ValueError(
            f"{answers}: {len(given)} answers to the {len(ids)} questions of {questions};"
            f" expected one each (without an answer: {missing[:3] or 'none'})"
        )
    labels = [str(record.get("label", "")).lower() for record in records]
    if wrong := [one for one in labels if one not in ("yes", "no")]:
        raise ValueError(f"{questions}: a label must be yes or no, got {wrong[0]!r}")
    return pope.METRICS.add_up(
        (question.image, pope.judge(found[key], label))
        for question, key, label in zip(asked, ids, labels, strict=True)
    )


VERBS = ("make", "score")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``make ...`` or ``score ...`` and return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    verb = given[0] if given else ""
    if verb == "make":
        return run(MakeConfig, make, given[1:], doc=__doc__ or "")
    if verb == "score":
        return run(ScoreConfig, score, given[1:], doc=__doc__ or "")
    if verb in ("-h", "--help"):
        print(f"usage: visvm pope make|score [flags]\n\n{__doc__}")
        return 0
    near = did_you_mean(verb, VERBS)
    print(f"error: pope takes make or score, got {verb!r}{near} (see visvm pope --help)", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
