"""POPE: yes/no questions on objects that are and are not in an image (Li et al. 2023, arXiv 2305.10355).

For each of an image's first objects there is a question whose answer is yes, and one on an absent
object: a random one, the most frequent one of the set, or the one that most often occurs with the
object asked before ("adversarial").
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from visvm.metrics.ratio_metrics import RatioMetrics

Strategy = Literal["random", "popular", "adversarial"]
METRICS = RatioMetrics(
    counts=("questions", "correct", "said_yes", "truth_yes", "yes_right", "mean_yes", "unparsed"),
    metrics={
        "accuracy": ("correct", "questions"),
        "precision": ("yes_right", "said_yes"),
        "recall": ("yes_right", "truth_yes"),
        "f1": ("yes_right", "mean_yes"),
        "yes_ratio": ("said_yes", "questions"),
        "unparsed": ("unparsed", "questions"),
    },
)


def make_questions(
    images: Mapping[str, Sequence[str]], strategy: Strategy, *, num_objects: int = 3, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the questions on images, given the distinct objects of each in order (at least ``num_objects``).

    Frequencies and co-occurrences are those of ``images``. Ties go to the object met first.

    Raises:
        ValueError: an image has too few objects, or no object of the set is absent from it.
    """
    luck = random.Random(seed)
    frequency = Counter(name for objects in images.values() for name in objects)
    together = _co_occurrences(images)
    questions: list[dict[str, Any]] = []
    for image, objects in images.items():
        if len(objects) < num_objects:
            raise ValueError(f"{image} has {len(objects)} objects, POPE asks for {num_objects}")
        asked: list[str] = []
        for present in objects[:num_objects]:
            absent = [name for name in frequency if name not in objects and name not in asked]
            if not absent:
                raise ValueError(f"{image}: no object of the set is absent from it")
            ranked = {"random": [], "popular": _names(frequency), "adversarial": _names(together[present])}
            first = next((name for name in ranked[strategy] if name in absent), None)
            chosen = first or luck.choice(absent)
            asked.append(chosen)
            for name, label in ((present, "yes"), (chosen, "no")):
                questions.append(_question(len(questions) + 1, image, name, label))
    return questions


def _names(counts: Counter[str]) -> list[str]:
    return [name for name, _ in counts.most_common()]


def _co_occurrences(images: Mapping[str, Sequence[str]]) -> dict[str, Counter[str]]:
    together: dict[str, Counter[str]] = {}
    for objects in images.values():
        for name in objects:
            together.setdefault(name, Counter()).update(other for other in objects if other != name)
    return together


def _question(number: int, image: str, name: str, label: str) -> dict[str, Any]:
    """Return one question as in the authors' files (whose program also turns "image" into "imange")."""
    article = "an" if name[0] in "aeiou" else "a"
    text = f"Is there {article} {name} in the image?"
    return {"question_id": number, "image": image, "text": text, "label": label}


def says_yes(answer: str) -> bool:
    """Return how the authors read an answer: no if its first sentence has the word no or not, else yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def judge(answer: str, label: str) -> dict[str, float]:
    """Count one answer; ``label`` is "yes" or "no". Unparsed: its first sentence says neither yes nor no."""
    yes, is_yes = says_yes(answer), label != "no"
    words = {word.strip(",;:!?").lower() for word in answer.split(".")[0].split()}
    return {
        "questions": 1,
        "correct": yes == is_yes,
        "said_yes": yes,
        "truth_yes": is_yes,
        "yes_right": yes and is_yes,
        "mean_yes": (yes + is_yes) / 2,
        "unparsed": not words & {"yes", "no", "not"},
    }
