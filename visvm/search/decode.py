"""Plain decoding, greedy or sampled: one caption straight from the policy, no scorer."""

from __future__ import annotations

from dataclasses import dataclass

from visvm.records import Branch, Caption
from visvm.search.draft import Draft, SentenceSearch, close, close_whole, propose
from visvm.search.scheduler import SearchContext


@dataclass(frozen=True)
class Decode(SentenceSearch):
    """Write each caption at one temperature (0 = greedy). Nothing is chosen, so the trace is empty."""

    name: str = "greedy"
    temperature: float = 0.0
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        draft = Draft(branch)
        if self.temperature == 0 and (context.is_streaming or branch.request.stop):
            return await self._write_stepwise(context, draft)
        (only,) = await propose(context, draft, [self.temperature], whole=True)
        return close_whole(draft, only, self.name, self.max_sentences)

    async def _write_stepwise(self, context: SearchContext, draft: Draft) -> Caption:
        """Write the same caption sentence by sentence, to stream it or to stop early.

        Greedy tokens do not depend on where a step begins, so the text is that of one whole decode.
        """
        while draft.is_live(self.max_sentences):
            (only,) = await propose(context, draft, [0.0])
            (draft.branch,) = context.commit([draft.branch], [only])
            draft.finish_reason = only.finish_reason
            context.on_step(only.text, None)
        return close(draft, self.name)
