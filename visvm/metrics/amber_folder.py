"""The folder of AMBER's authors: annotations, relations, safe words and queries, read and checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from visvm import storage
from visvm.metrics import amber, amber_questions
from visvm.metrics.amber import AmberWords
from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.qa_files import read_answers, read_records
from visvm.metrics.ratio_metrics import ImageCounts

Tagger = Literal["nltk", "none"]


class Judged(NamedTuple):
    """What one model's answers count: captions by image; (type, image, counts) of each yes/no answer."""

    captions: ImageCounts
    questions: list[tuple[str, str, dict[str, float]]]


@dataclass(frozen=True)
class Amber:
    """AMBER's annotations by id, its words, and the image of each question.

    Images are the unit of the intervals; without the queries each question stands for its own. ``nouns``
    returns the nouns of a response.
    """

    annotations: Mapping[str, Mapping[str, Any]]
    words: AmberWords
    images: Mapping[str, str]
    nouns: Callable[[str], list[str]] = amber.nouns

    @classmethod
    def read(cls, folder: str, similar: str | None = None, *, tagger: Tagger = "nltk") -> Amber:
        """Read the authors' repository or its data folder, and a table of similar pairs.

        Raises:
            ValueError: a file is missing or malformed (which).
        """
        folder = data_folder(folder)
        annotations = {str(one["id"]): one for one in read_records(storage.join(folder, "annotations.json"))}
        queries = storage.join(folder, "query/query_all.json")
        images = (
            {str(one["id"]): one["image"] for one in read_records(queries)} if storage.exists(queries) else {}
        )
        nouns = amber.nouns if tagger == "nltk" else amber.all_words
        return cls(annotations, read_words(folder, similar), images, nouns)

    def judge(self, path: str) -> Judged:
        """Judge the answers in a file, a list of {"id", "response"}.

        Raises:
            ValueError: an answer to no question of AMBER, or NLTK's data is needed and not installed.
        """
        answers = read_answers(path)
        if unknown := sorted({key for key, _ in answers} - self.annotations.keys()):
            raise ValueError(f"{path}: {len(unknown)} ids are not AMBER's, such as {unknown[0]!r}")
        captions, questions = [], []
        for key, text in answers:
            one, image = self.annotations[key], self.images.get(key, key)
            if one["type"] == "generative":
                captions.append((image, amber.judge(self.nouns(text), one, self.words)))
            else:
                counts = amber_questions.judge(text, one["truth"])
                questions.append((amber_questions.type_of(one), image, counts))
        return Judged(amber.METRICS.add_up(captions), questions)

    def summary(self, judged: Judged, resampling: Resampling = DEFAULT) -> dict[str, Any]:
        """Return the metrics of the ``generative`` task and, by type, of the ``discriminative`` one."""
        captions = judged.captions
        return {
            "num_captions": len(captions),
            "num_questions": len(judged.questions),
            "num_annotations": len(self.annotations),
            "generative": amber.summary(captions, self.words, resampling) if captions else None,
            "discriminative": amber_questions.summaries(judged.questions, resampling),
        }


def data_folder(folder: str) -> str:
    """Return the data folder of the authors' repository; it may be given itself."""
    data = storage.join(folder, "data")
    return data if storage.is_folder(data) else folder


def read_words(folder: str, similar: str | None = None) -> AmberWords:
    """Read relation.json, safe_words.txt and the table that ``visvm data amber-similarity`` wrote.

    Raises:
        ValueError: a file is missing or malformed (which).
    """
    relations = _json(storage.join(folder, "relation.json"))
    safe = _text(storage.join(folder, "safe_words.txt")).split("\n")
    pairs = _json(similar)["pairs"] if similar else None
    table = None if pairs is None else frozenset(frozenset(pair) for pair in pairs)
    return AmberWords(relations, frozenset(word.strip() for word in safe if word.strip()), table)


def _json(path: str) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _text(path: str) -> str:
    try:
        return storage.read(path).decode()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}; AMBER's authors publish it") from None
