"""Plain decoding, greedy or sampled: one caption straight from the policy, no scorer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from visvm.records import Caption, Policy, Request, Scorer
from visvm.search.draft import close_whole, open_drafts, propose


@dataclass(frozen=True)
class Decode:
    """Write each caption at one temperature (0 = greedy); nothing is chosen, so there is no trace."""

    name: str = "greedy"
    temperature: float = 0.0
    max_sentences: int | None = None

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        started = time.perf_counter()
        drafts = open_drafts(policy, requests)
        chosen = [only for [only] in propose(policy, drafts, [self.temperature], whole=True)]
        return close_whole(
            drafts, chosen, method=self.name, started=started, max_sentences=self.max_sentences
        )
