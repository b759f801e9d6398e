"""Exact rewards, computed from the layout of an image: those of a CLIP without errors."""

from __future__ import annotations

from collections.abc import Sequence

from visvm.metrics.chair import chair
from visvm.records import Question
from visvm.world.scenes import layout_of


class ExactScorer:
    """A ``Scorer`` for images of the world, found by their ids: (true - false) / (mentions + 1).

    As under CLIP, the reward grows with the number of true objects, by less for each further one: 0
    without objects, .5 for one true object, .67 for two, -.5 for one false object.
    """

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Return the reward of each sentence of each question, in (-1, 1)."""
        return [[reward(text, question.image.id) for text in question.sentences] for question in questions]


def reward(sentence: str, image_id: str) -> float:
    """Return the exact reward of one sentence about the image with this id."""
    named = chair(sentence, layout_of(int(image_id)).names)
    false = len(named.hallucinated)
    return (len(named.objects) - 2 * false) / (len(named.objects) + 1)
