"""The benchmarks of a loop's rows: AMBER, POPE and MMHal-Bench, each from the captions or by answering."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs import amber, answer, mmhal, pope
from jobs.runner.part_files import read_rows
from jobs.workflow.stages import Metrics, Stages
from visvm import storage

if TYPE_CHECKING:
    from visvm.metrics.pope import Strategy

POPE_STRATEGY: Strategy = "adversarial"
NUM_OBJECTS = 3  # of an image that POPE asks about
Options = Mapping[str, Any]


@dataclass(frozen=True)
class AnsweredRow:
    """A row of the table: the options by which it answers, and the folder of its test captions."""

    options: Options
    captions: str


Rows = Mapping[str, AnsweredRow]


def pope_from_captions(stages: Stages, coco: str, rows: Rows) -> Metrics:
    """Answer POPE's questions by whether a caption names the object (offline POPE, arXiv 2403.00425)."""
    questions = storage.join(stages.path("pope"), f"pope_{POPE_STRATEGY}.json")
    if not stages.is_planned:
        _pope_sets(stages, questions, coco, rows)
    given = {"questions": questions, "answers": _answer_sets(stages, "pope", rows)}
    return stages.run("pope/score", pope.score, pope.ScoreConfig, given)


def _pope_sets(stages: Stages, questions: str, coco: str, rows: Rows) -> None:
    """Write POPE's questions about the captioned images of three objects or more, and every row's answers."""
    from visvm.metrics.coco import Annotations, image_key, objects_by_file
    from visvm.metrics.pope import make_questions

    found, annotations = objects_by_file(coco), Annotations(coco)
    texts = {name: _captions(row.captions) for name, row in rows.items()}
    ids = annotations.resolve([*found, *(key for one in texts.values() for key in one)])
    common = set.intersection(*({ids[image_key(key)] for key in one} for one in texts.values()))
    usable = {
        file: objects
        for file, objects in found.items()
        if ids[image_key(file)] in common and len(objects) >= NUM_OBJECTS
    }
    asked = make_questions(usable, POPE_STRATEGY, num_objects=NUM_OBJECTS, seed=stages.seed)
    storage.write(questions, "".join(json.dumps(one) + "\n" for one in asked))
    for name, captions in texts.items():
        named = {ids[image_key(key)]: _objects(text) for key, text in captions.items()}
        answers = {
            str(one["question_id"]): "Yes" if _objects(one["text"]) <= named[ids[one["image"]]] else "No"
            for one in asked
        }
        _write_answers(stages, f"pope/answers/{name}", answers)


def _objects(text: str) -> set[str]:
    from visvm.metrics.chair import mentions

    return {one.category for one in mentions(text)}


def _answer_sets(stages: Stages, benchmark: str, rows: Rows) -> list[str]:
    return [f"{name}={stages.path(f'{benchmark}/answers/{name}')}" for name in rows]


def amber_by_captions(stages: Stages, rows: Rows) -> Metrics:
    """Judge the world's captions as answers to AMBER's generative task, on a set made of the same images."""
    if not stages.is_planned:
        _amber_sets(stages, rows)
    given = {"answers": _answer_sets(stages, "amber", rows), "amber": stages.path("amber/set")}
    return stages.run("amber/score", amber.work, amber.AmberConfig, given | {"tagger": "none"})


def _amber_sets(stages: Stages, rows: Rows) -> None:
    from visvm.world import benchmarks

    texts = {name: _captions(row.captions) for name, row in rows.items()}
    benchmarks.write_amber(stages.path("amber/set"), _layouts(next(iter(texts.values()))))
    for name, captions in texts.items():
        answers = {str(int(key)): text for key, text in captions.items()}
        _write_answers(stages, f"amber/answers/{name}", answers)


def amber_by_answers(stages: Stages, rows: Rows, folder: str, similar: str | None) -> Metrics:
    """Answer AMBER's generative queries by every row, and judge the answers."""
    from visvm.metrics.amber_folder import data_folder

    questions = storage.join(data_folder(folder), "query/query_generative.json")
    images = storage.join(folder, "image")
    for name, row in rows.items():
        _answers(stages, f"amber/answers/{name}", questions, images, row)
    given = {"answers": _answer_sets(stages, "amber", rows), "amber": folder, "similar": similar}
    return stages.run("amber/score", amber.work, amber.AmberConfig, given)


def mmhal_by_captions(stages: Stages, rows: Rows) -> dict[str, Metrics]:
    """Rate the world's captions on MMHal-Bench's scale by the truth, which takes the place of the judge."""
    from visvm.world import benchmarks

    found = {}
    for name, row in rows.items():
        judged = storage.join(stages.path(f"mmhal/answers/{name}"), "replies.json")
        if not stages.is_planned:
            texts = _captions(row.captions)
            replies = benchmarks.replies(dict(zip(_layouts(texts), texts.values(), strict=True)))
            storage.write(judged, json.dumps(replies))
        found[name] = stages.run(f"mmhal/score/{name}", mmhal.work, mmhal.MmhalConfig, {"judged": judged})
    return found


def mmhal_by_judge(stages: Stages, rows: Rows, given: Options, images: str) -> dict[str, Metrics]:
    """Answer MMHal-Bench's questions by every row; the endpoint of ``given`` judges the answers."""
    found = {}
    for name, row in rows.items():
        answers = _answers(stages, f"mmhal/answers/{name}", given["questions"], images, row)
        options = {**given, "answers": answers}
        found[name] = stages.run(f"mmhal/score/{name}", mmhal.work, mmhal.MmhalConfig, options)
    return found


def _answers(stages: Stages, name: str, questions: str, images: str, row: AnsweredRow) -> str:
    given = {"questions": questions, "images": images, "prompts": "{question}", "seed": stages.seed}
    stages.run(name, answer.work, answer.AnswerConfig, {**given, **stages.common, **row.options})
    return stages.path(name)


def _write_answers(stages: Stages, name: str, answers: Mapping[str, str]) -> None:
    lines = [json.dumps({"id": key, "response": text}) + "\n" for key, text in answers.items()]
    storage.write(storage.join(stages.path(name), "answers.jsonl"), "".join(lines))


def _captions(folder: str) -> dict[str, str]:
    """Return the captions of a run by the id of their image."""
    rows = sorted(read_rows(f"{folder}/captions"), key=lambda row: row["image_id"])
    return {row["image_id"]: row["caption"] for row in rows}


def _layouts(ids: Iterable[str]) -> list[Any]:
    from visvm.world.scenes import layout_of

    return [layout_of(int(key)) for key in ids]
