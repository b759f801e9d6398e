"""Stepwise search, VisVM's algorithm: propose sentences, score them, commit the best, repeat.

With the CLIP reward as the scorer this is the paper's CLIP-PRM search; with the value model it is
VisVM search (arXiv 2412.03704, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from visvm.records import Branch, Candidate, Caption
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    SentenceSearch,
    close,
    commit,
    first_best,
    propose,
    score,
    score_rewards,
)
from visvm.search.scheduler import SearchContext

FIRST = 2  # samples beside the greedy sentence before an adaptive search looks at the spread
VETO_ROUNDS = 2  # of asking for more, twice as many as at first each, where all candidates are vetoed
MOST_CANDIDATES = 1 + 2 * VETO_ROUNDS  # as a multiple of those without a veto


@dataclass(frozen=True)
class Stepwise(SentenceSearch):
    """Choose every sentence from 1 + K * T candidates: the greedy one, then K at each of T temperatures.

    ``step_size`` is the paper's K. A caption ends when the chosen candidate ends it.

    ``min_reward`` is a veto: only candidates whose reward is at least that are chosen from. Where there is
    none, more are asked for; where there still is none the caption ends, or, if it is empty, begins with the
    candidate of the highest reward. ``min_spread`` spends candidates where they matter: the greedy one and
    two more come first, and the others only where the values of these differ by at least that.

    ``choose_at`` is the paper's look-ahead probe: only that sentence (from 1) is chosen by score, and the
    others are the greedy candidates, so two scorers choose once, from the same candidates.
    """

    name: str = "prm"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    min_reward: float | None = None
    min_spread: float | None = None
    choose_at: int | None = None
    max_sentences: int | None = None

    @property
    def judges(self) -> bool:
        """Whether rewards are asked for beside scores."""
        return self.min_reward is not None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        while draft.is_live(self.max_sentences):
            await self._step(context, draft)
        return close(draft, self.name)

    async def _step(self, context: SearchContext, draft: Draft) -> None:
        candidates, values = await self._propose(context, draft)
        allowed: Sequence[int] = range(len(candidates))
        if self.min_reward is not None:
            rewards = await score_rewards(context, draft, [one.text for one in candidates])
            for schedule in self._more():
                if max(rewards) >= self.min_reward:
                    break
                new = await propose(context, draft, schedule)
                candidates, values = candidates + new, values + await score(context, draft, new)
                rewards += await score_rewards(context, draft, [one.text for one in new])
            allowed = [i for i, reward in enumerate(rewards) if reward >= self.min_reward]
            if not allowed and draft.sentences:
                draft.is_stopped = True
                return
            allowed = allowed or [first_best(rewards)]
        commit(context, draft, candidates, values, among=allowed)

    async def _propose(self, context: SearchContext, draft: Draft) -> tuple[list[Candidate], list[float]]:
        if self.choose_at not in (None, len(draft.sentences) + 1):
            return await propose(context, draft, (0.0,)), [0.0]
        schedule = (0.0, *self.temperatures * self.step_size)
        first = schedule if self.min_spread is None else schedule[: 1 + FIRST]
        candidates = await propose(context, draft, first)
        values = await score(context, draft, candidates)
        rest = schedule[len(first) :]
        if rest and self.min_spread is not None and max(values) - min(values) >= self.min_spread:
            more = await propose(context, draft, rest)
            candidates, values = candidates + more, values + await score(context, draft, more)
        return candidates, values

    def _more(self) -> list[tuple[float, ...]]:
        """Return the temperatures of each further round.

        They are rotated, since a candidate depends on its place in a round and on its temperature.
        """
        rounds = range(VETO_ROUNDS)
        turned = [(*self.temperatures[i:], *self.temperatures[:i]) for i in rounds]
        return [temperatures * (2 * self.step_size) for temperatures in turned]
