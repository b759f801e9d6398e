"""Stepwise search, VisVM's algorithm: propose sentences, score them, commit the best; again.

With the CLIP reward as the scorer this is the paper's CLIP-PRM search, with the value model VisVM
(arXiv 2412.03704, section 3.3).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from visvm.records import Caption, Policy, Request, Scorer
from visvm.search.draft import TEMPERATURES, close, commit, open_drafts, propose, score


@dataclass(frozen=True)
class Stepwise:
    """Every sentence is the best of 1 + K * T candidates: the greedy one, then K at each temperature.

    ``step_size`` is the paper's K. A caption ends when the candidate that was chosen ends it.
    """

    name: str = "prm"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    max_sentences: int | None = None

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        assert scorer is not None, "stepwise search needs a scorer"
        started = time.perf_counter()
        drafts = open_drafts(policy, requests)
        schedule = (0.0, *self.temperatures * self.step_size)
        while live := [draft for draft in drafts if draft.is_live(self.max_sentences)]:
            candidates = propose(policy, live, schedule)
            values = score(scorer, live, candidates)
            commit(policy, live, candidates, values)
        return close(drafts, self.name, started)
