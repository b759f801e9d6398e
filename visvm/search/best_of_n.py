"""Best of n whole captions: sample them all, score every sentence, keep the best mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from visvm.records import Branch, Candidate, Caption, TraceStep
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    SentenceSearch,
    State,
    close_whole,
    first_best,
    propose,
    score_states,
    whole_sentences,
)
from visvm.search.scheduler import SearchContext


@dataclass(frozen=True)
class BestOfN(SentenceSearch):
    """Sample ``samples_per_temperature`` whole captions at each temperature; 5 x 6 = 30 as published.

    The score of a caption is the mean of its sentences' scores, so length is neither rewarded nor
    penalised.
    """

    name: str = "best_of_n"
    temperatures: tuple[float, ...] = TEMPERATURES
    samples_per_temperature: int = 6
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        candidates = await propose(
            context, draft, self.temperatures * self.samples_per_temperature, whole=True
        )
        scores = await self._score(context, draft, candidates)
        return close_whole(draft, _keep_best(draft, candidates, scores), self.name, self.max_sentences)

    async def _score(
        self, context: SearchContext, draft: Draft, candidates: Sequence[Candidate]
    ) -> list[list[float]]:
        """Score every sentence of every candidate in one call of the scorer."""
        states = [self._states(draft.given, candidate) for candidate in candidates]
        values = iter(await score_states(context, draft, [state for row in states for state in row]))
        return [[next(values) for _ in row] for row in states]

    def _states(self, given: tuple[str, ...], candidate: Candidate) -> list[State]:
        sentences, is_cut = whole_sentences(candidate, self.max_sentences)
        last = len(sentences) - 1 if candidate.is_last and not is_cut else None
        return [State(given + sentences[:i], text, i == last) for i, text in enumerate(sentences)]


def _keep_best(draft: Draft, candidates: Sequence[Candidate], scores: Sequence[Sequence[float]]) -> Candidate:
    means = [fmean(sentence_scores) for sentence_scores in scores]
    choice = first_best(means)
    draft.trace.append(TraceStep(tuple(candidates), tuple(means), choice))
    draft.values.extend(scores[choice])
    return candidates[choice]
