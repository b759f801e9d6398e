"""Stepwise search, VisVM's algorithm: propose sentences, score them, commit the best, repeat.

With the CLIP reward as the scorer this is the paper's CLIP-PRM search; with the value model it is
VisVM search (arXiv 2412.03704, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from visvm.records import Branch, Caption
from visvm.search.draft import TEMPERATURES, Draft, SentenceSearch, close, commit, propose, score
from visvm.search.scheduler import SearchContext


@dataclass(frozen=True)
class Stepwise(SentenceSearch):
    """Choose every sentence from 1 + K * T candidates: the greedy one, then K at each of T temperatures.

    ``step_size`` is the paper's K. A caption ends when the chosen candidate ends it.
    """

    name: str = "prm"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        schedule = (0.0, *self.temperatures * self.step_size)
        while draft.is_live(self.max_sentences):
            candidates = await propose(context, draft, schedule)
            values = await score(context, draft, candidates)
            commit(context, draft, candidates, values)
        return close(draft, self.name)
