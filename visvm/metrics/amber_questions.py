"""AMBER's discriminative task: yes/no questions on existence, attributes and relations.

As in the authors' program, "No" is the positive answer (it finds a hallucination), and an answer counts
only if it is exactly Yes or No.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.ratio_metrics import ImageCounts, RatioMetrics

METRICS = RatioMetrics(
    counts=("questions", "correct", "truth_no", "answered_no", "no_right", "mean_no", "unparsed"),
    metrics={
        "accuracy": ("correct", "questions"),
        "precision": ("no_right", "answered_no"),
        "recall": ("no_right", "truth_no"),
        "f1": ("no_right", "mean_no"),
        "unparsed": ("unparsed", "questions"),
    },
)
TYPES = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
}
GROUPS = {
    "all": tuple(TYPES.values()),
    "existence": ("existence",),
    "attribute": ("state", "number", "action"),
    **{name: (name,) for name in ("state", "number", "action", "relation")},
}
EPSILON = 0.001  # the authors' program starts its denominators with it


def type_of(annotation: Mapping[str, Any]) -> str:
    """Return the kind of question of an annotation; what is no other type is a relation."""
    return TYPES.get(annotation["type"], "relation")


def judge(response: str, truth: str) -> dict[str, float]:
    """Count one answer; ``truth`` is "yes" or "no"."""
    is_no, says_no = truth != "yes", response == "No"
    return {
        "questions": 1,
        "correct": says_no if is_no else response == "Yes",
        "truth_no": is_no,
        "answered_no": says_no,
        "no_right": is_no and says_no,
        "mean_no": (is_no + says_no) / 2,
        "unparsed": response not in ("Yes", "No"),
    }


def summaries(
    judged: Iterable[tuple[str, str, Mapping[str, float]]], resampling: Resampling = DEFAULT
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each of GROUPS that has questions, from (kind, image, counts) of each answer.

    Fractions with intervals over images, and ``printed``: percent, as the authors' program has it.
    """
    answers = list(judged)
    found = {}
    for group, kinds in GROUPS.items():
        images = METRICS.add_up((image, counts) for kind, image, counts in answers if kind in kinds)
        if images:
            metrics = METRICS.evaluate(images, resampling)
            found[group] = metrics | {"printed": _printed(group, images)}
    return found


def _printed(group: str, images: ImageCounts) -> dict[str, float]:
    totals = METRICS.totals(images)
    epsilon = EPSILON * len(GROUPS[group]) if group == "attribute" else EPSILON
    rounded = {
        name: round(totals[above] / (totals[below] + epsilon) * 100, 1)
        for name, (above, below) in METRICS.metrics.items()
        if name in ("accuracy", "precision", "recall")
    }
    precision, recall = rounded["precision"] / 100, rounded["recall"] / 100
    smooth = 0.001 if group == "existence" else 0.0001
    return rounded | {"f1": round(2 * precision * recall / (precision + recall + smooth) * 100, 1)}
