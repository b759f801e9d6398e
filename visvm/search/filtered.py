"""A filter behind any search: drop the sentences of a finished caption whose reward is too low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from visvm.records import Branch, Caption
from visvm.search.decode import Decode
from visvm.search.draft import Draft, SentenceSearch, score_rewards
from visvm.search.scheduler import SearchContext
from visvm.sentences import split_sentences


@dataclass(frozen=True)
class Filtered(SentenceSearch):
    """Write a caption by ``search``, then drop sentences whose reward is below ``drop_below`` (None: none).

    ``values`` of the caption are the rewards of the sentences kept; ``trace`` is that of the search. A
    streamed caption arrives at the end, since only then is it known what stays.
    """

    search: SentenceSearch
    drop_below: float | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the search."""
        return self.search.name

    @property
    def judges(self) -> bool:
        """Whether rewards are asked for: always."""
        return True

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        caption = await self.search.write(SearchContext(context.policy, head=context.head), branch)
        if branch.request.unit != "sentence":
            caption = replace(caption, sentences=tuple(split_sentences(caption.text)))
        rewards = await score_rewards(context, Draft(branch, cost=caption.cost), caption.sentences)
        caption = self._filter(caption, rewards)
        for sentence in caption.sentences:
            context.on_step(sentence, None)
        return caption

    def _filter(self, caption: Caption, rewards: Sequence[float]) -> Caption:
        pairs = zip(caption.sentences, rewards, strict=True)
        kept = [pair for pair in pairs if self.drop_below is None or pair[1] >= self.drop_below]
        sentences = [text for text, _ in kept]
        if sentences and sentences[0] != caption.sentences[0]:
            sentences[0] = sentences[0].lstrip()
        values = tuple(reward for _, reward in kept)
        return replace(caption, text="".join(sentences), sentences=tuple(sentences), values=values)


def filtered_greedy(
    name: str = "filter", drop_below: float | None = None, max_sentences: int | None = None
) -> Filtered:
    """Return the method "filter": write greedily, then drop sentences."""
    return Filtered(Decode(name, max_sentences=max_sentences), drop_below)
