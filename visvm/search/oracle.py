"""Oracle look-ahead: the value of a candidate is estimated by sampling how the policy continues it.

This is an upper bound to compare with, not a method for use: it shows what a perfect value model of this
policy would gain, and pays with whole completions of every candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from visvm.records import Branch, Candidate, Caption
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    SentenceSearch,
    State,
    close,
    commit,
    count_tokens,
    propose,
    score,
    score_states,
    whole_sentences,
)
from visvm.search.scheduler import SearchContext


@dataclass(frozen=True)
class Oracle(SentenceSearch):
    """Stepwise search where a candidate's value is its mean discounted return over ``completions``.

    The return is the sum of gamma^i * (r_i - centre) over the candidate (i = 0) and the sentences after it.
    Rewards r_i come from the scorer; completions are sampled at ``temperature``.
    """

    name: str = "oracle"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    completions: int = 2
    temperature: float = 0.7
    gamma: float = 0.9
    centre: float = 0.0
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        schedule = (0.0, *self.temperatures * self.step_size)
        while draft.is_live(self.max_sentences):
            candidates = await propose(context, draft, schedule)
            rewards = await score(context, draft, candidates)
            futures = await self._futures(context, draft, candidates)
            pairs = zip(rewards, futures, strict=True)
            values = [reward - self.centre + self.gamma * future for reward, future in pairs]
            commit(context, draft, candidates, values)
        return close(draft, self.name)

    async def _futures(
        self, context: SearchContext, draft: Draft, candidates: Sequence[Candidate]
    ) -> list[float]:
        """Return the mean return of what follows each candidate: 0 if nothing does; one for equal texts."""
        parents = {one.text: one for one in candidates if not one.ended}
        returns = await self._complete(context, draft, list(parents.values())) if parents else []
        known = dict(zip(parents, returns, strict=True))
        return [0.0 if one.ended else known[one.text] for one in candidates]

    async def _complete(
        self, context: SearchContext, draft: Draft, parents: Sequence[Candidate]
    ) -> list[float]:
        """Sample ``completions`` endings of every parent; return their mean return per parent."""
        branches = context.commit([draft.branch] * len(parents), parents)
        endings = await context.propose(branches, [self.temperature] * self.completions, whole=True)
        states = []
        for candidate, samples in zip(parents, endings, strict=True):
            count_tokens(draft, samples)
            prefix = (*draft.branch.sentences, candidate.text)
            room = None if self.max_sentences is None else self.max_sentences + len(draft.given) - len(prefix)
            states.append([_states(prefix, sample, room) for sample in samples])
        flat = [state for rows in states for row in rows for state in row]
        rewards = iter(await score_states(context, draft, flat))
        return [fmean(self._return([next(rewards) for _ in row]) for row in rows) for rows in states]

    def _return(self, rewards: Sequence[float]) -> float:
        return sum(self.gamma**i * (reward - self.centre) for i, reward in enumerate(rewards))


def _states(prefix: tuple[str, ...], sample: Candidate, room: int | None) -> list[State]:
    """Return the sentences of a completion, at most ``room`` of them, to be scored after ``prefix``."""
    sentences, is_cut = whole_sentences(sample, room)
    last = len(sentences) - 1 if sample.is_last and not is_cut else None
    return [State(prefix + sentences[:i], text, i == last) for i, text in enumerate(sentences)]
