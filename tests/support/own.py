"""A scorer and a search as a user would write them: named in tests as "tests.support.own:NAME"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from visvm.records import Branch, Caption, Question
from visvm.search import SentenceSearch
from visvm.search.draft import Draft, Needs, close, commit, propose, score
from visvm.search.scheduler import SearchContext


class ShortestFirst:
    """Prefers short sentences."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        return [[-float(len(text.strip())) for text in question.sentences] for question in questions]


@dataclass(frozen=True)
class TwoSentences(SentenceSearch):
    """Writes two sentences, each the best of the greedy one and ``step_size`` samples."""

    needs: ClassVar[Needs] = "reward"
    name: str = "two_sentences"
    step_size: int = 1

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        while draft.is_live(2):
            candidates = await propose(context, draft, (0.0, *[0.9] * self.step_size))
            commit(context, draft, candidates, await score(context, draft, candidates))
        return close(draft, self.name)


def make_two(step_size: int) -> TwoSentences:
    return TwoSentences(name="made", step_size=step_size)


def make_nothing() -> None:
    return None


shortest_first = ShortestFirst()
number = 3


class Undecided(ShortestFirst):
    """Gives one score too few."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        return [scores[1:] for scores in super().score(questions)]
