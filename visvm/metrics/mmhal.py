"""MMHal-Bench: a judge model rates answers from 0 to 6 (Sun et al. 2023, arXiv 2309.14525).

The prompt of the judge is a file of the user's (the published one is GPL-3.0): a text with {} four
times, or with {image_content}, {question}, {gt_answer} and {model_answer}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.ratio_metrics import RatioMetrics

TYPES = (
    *("attribute", "adversarial", "comparison", "counting"),
    *("relation", "environment", "holistic", "other"),
)
FIELDS = ("image_content", "question", "gt_answer", "model_answer")
METRICS = RatioMetrics(
    counts=("answers", "score", "hallucinating", "unparsed", "parsed", "doubtful"),
    metrics={
        "score": ("score", "answers"),
        "hallucination_rate": ("hallucinating", "answers"),
        "unparsed": ("unparsed", "answers"),
        "doubtful": ("doubtful", "answers"),
        "score_of_parsed": ("score", "parsed"),
    },
)


def parse_rating(reply: str) -> int | None:
    """Return the one rating 0..6 that a reply gives as "rating: N"; None if it gives none, or several."""
    found = [rating for rating in range(7) if f"rating: {rating}" in reply.lower()]
    return found[0] if len(found) == 1 else None


def is_doubtful(reply: str) -> bool:
    """Return whether a parsed rating goes on as another number ("rating: 10" counts as 1, as published)."""
    rating = parse_rating(reply)
    if rating is None:
        return False
    after = reply.lower().split(f"rating: {rating}", 1)[1]
    return after[:1].isdigit() or (after[:1] in (".", ",") and after[1:2].isdigit())


def judge(reply: str) -> dict[str, float]:
    """Count one reply of the judge; without a rating the answer scores 0, as published."""
    rating = parse_rating(reply)
    score = rating or 0
    return {
        "answers": 1,
        "score": score,
        "hallucinating": score < 3,
        "unparsed": rating is None,
        "parsed": rating is not None,
        "doubtful": is_doubtful(reply),
    }


def summary(replies: Sequence[str], resampling: Resampling = DEFAULT) -> dict[str, Any]:
    """Return the metrics of the judge's replies in the order of the questions, and the score of each type.

    ``score`` is the mean of 0..6; a score below 3 is a hallucination; question i is of type i mod 8.
    Intervals are over questions, each of which has an image of its own.
    """
    judged = [(f"{i:06d}", judge(reply)) for i, reply in enumerate(replies)]
    types = {
        name: METRICS.evaluate(METRICS.add_up(judged[i :: len(TYPES)]), resampling)
        for i, name in enumerate(TYPES)
        if judged[i :: len(TYPES)]
    }
    metrics = METRICS.evaluate(METRICS.add_up(judged), resampling)
    return {"num_answers": len(judged), **metrics, "types": types}


def fill(prompt: str, record: Mapping[str, Any], answer: str) -> str:
    """Return the judge's prompt for an answer to a question of the benchmark (one of its records).

    Raises:
        ValueError: the prompt has other placeholders, or the record lacks a field.
    """
    if missing := [name for name in FIELDS[:3] if name not in record]:
        raise ValueError(f"a question of MMHal-Bench needs {', '.join(missing)}, got {dict(record)!r:.200}")
    content = record["image_content"]
    values = {
        "image_content": content if isinstance(content, str) else ", ".join(content),
        "question": record["question"],
        "gt_answer": record["gt_answer"],
        "model_answer": answer,
    }
    if prompt.count("{}") not in (0, 4):
        raise ValueError(f"the judge's prompt has {{}} {prompt.count('{}')} times: expected 4")
    try:
        filled = prompt.format(*values.values(), **values)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"the judge's prompt has a placeholder that is not known: {error}") from None
    if answer not in filled:
        raise ValueError("the judge's prompt lacks the answer: expected {} 4 times, or {model_answer}")
    return filled
