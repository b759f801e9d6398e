"""Oracle look-ahead: a candidate is worth what the policy really makes of it, by sampling.

No method to use but a yardstick: what a perfect value model of this policy would gain, at the price
of whole completions for every candidate.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from visvm.records import Candidate, Caption, Policy, Request, Scorer
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    State,
    close,
    commit,
    count_tokens,
    open_drafts,
    propose,
    score,
    score_states,
    whole_sentences,
)


@dataclass(frozen=True)
class Oracle:
    """Stepwise search where a candidate's value is its mean discounted return over ``completions``.

    The return is the sum of gamma^i * (r_i - centre) over the candidate and the rest of the caption,
    with the scorer's rewards and completions sampled at ``temperature``.
    """

    name: str = "oracle"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    completions: int = 2
    temperature: float = 0.7
    gamma: float = 0.9
    centre: float = 0.0
    max_sentences: int | None = None

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        assert scorer is not None, "the oracle needs a scorer"
        started = time.perf_counter()
        drafts = open_drafts(policy, requests)
        schedule = (0.0, *self.temperatures * self.step_size)
        while live := [draft for draft in drafts if draft.is_live(self.max_sentences)]:
            candidates = propose(policy, live, schedule)
            rewards = score(scorer, live, candidates)
            futures = self._futures(policy, scorer, live, candidates)
            commit(policy, live, candidates, self._returns(rewards, futures))
        return close(drafts, self.name, started)

    def _returns(self, rewards: list[list[float]], futures: list[list[float]]) -> list[list[float]]:
        return [
            [reward - self.centre + self.gamma * future for reward, future in zip(*row, strict=True)]
            for row in zip(rewards, futures, strict=True)
        ]

    def _futures(
        self,
        policy: Policy,
        scorer: Scorer,
        drafts: Sequence[Draft],
        proposals: Sequence[Sequence[Candidate]],
    ) -> list[list[float]]:
        """The mean return of what follows each candidate; 0 where nothing does. Equal texts share it."""
        known: dict[tuple[int, str], float] = {}
        parents: dict[tuple[int, str], tuple[Draft, Candidate]] = {
            (i, candidate.text): (draft, candidate)
            for i, (draft, candidates) in enumerate(zip(drafts, proposals, strict=True))
            for candidate in candidates
            if not candidate.ended
        }
        if parents:
            known = dict(zip(parents, self._complete(policy, scorer, list(parents.values())), strict=True))
        return [
            [0.0 if candidate.ended else known[i, candidate.text] for candidate in candidates]
            for i, candidates in enumerate(proposals)
        ]

    def _complete(
        self, policy: Policy, scorer: Scorer, parents: Sequence[tuple[Draft, Candidate]]
    ) -> list[float]:
        branches = policy.commit([draft.branch for draft, _ in parents], [c for _, c in parents])
        endings = policy.propose(branches, [self.temperature] * self.completions, whole=True)
        states = []
        for (draft, candidate), samples in zip(parents, endings, strict=True):
            count_tokens(draft, samples)
            prefix = (*draft.branch.sentences, candidate.text)
            states.append([self._states(draft, prefix, sample) for sample in samples])
        rewards = iter(score_states(scorer, [s for rows in states for row in rows for s in row]))
        return [fmean(self._return([next(rewards) for _ in row]) for row in rows) for rows in states]

    def _states(self, draft: Draft, prefix: tuple[str, ...], sample: Candidate) -> list[State]:
        room = None if self.max_sentences is None else self.max_sentences - len(prefix)
        sentences, is_cut = whole_sentences(sample, room)
        last = None if is_cut else len(sentences) - 1
        return [State(draft, prefix + sentences[:i], text, i == last) for i, text in enumerate(sentences)]

    def _return(self, rewards: Sequence[float]) -> float:
        return sum(self.gamma**i * (reward - self.centre) for i, reward in enumerate(rewards))
