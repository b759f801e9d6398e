"""Several captions in progress at a time: beam search over sentences, and a particle filter."""

from __future__ import annotations

import copy
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from visvm.records import Branch, Candidate, Caption
from visvm.search.draft import (
    TEMPERATURES,
    Draft,
    SentenceSearch,
    close,
    commit,
    count_tokens,
    first_best,
    score,
)
from visvm.search.scheduler import SearchContext


@dataclass(frozen=True)
class Option:
    """A draft, and the candidate that it may go on with (None: it is finished)."""

    draft: Draft
    candidates: Sequence[Candidate] = ()
    values: Sequence[float] = ()
    choice: int | None = None

    @property
    def all_values(self) -> list[float]:
        """The values of the draft's sentences, this one included."""
        return self.draft.values + ([] if self.choice is None else [self.values[self.choice]])

    @property
    def text(self) -> tuple[str, bool]:
        """What makes two options the same caption: the text, and whether it is finished."""
        if self.choice is None:
            return self.draft.branch.text, True
        one = self.candidates[self.choice]
        return self.draft.branch.text + one.text, one.ended

    def take(self, context: SearchContext) -> Draft:
        """Return the draft with the candidate appended; other options may start from the same draft."""
        if self.choice is None:
            return self.draft
        draft = copy.copy(self.draft)  # all drafts of a caption share their cost
        draft.values, draft.trace = list(draft.values), list(draft.trace)
        silent = SearchContext(context.policy)
        commit(silent, draft, self.candidates, self.values, among=[self.choice])
        return draft


@dataclass(frozen=True)
class Beam(SentenceSearch):
    """Keep the ``beam_width`` captions of the highest mean value; each of them proposes in every turn.

    The candidates of a caption are those of stepwise search, and a beam of width 1 is stepwise search. A
    finished caption keeps its place until others outrank it. The search ends when all that are kept are
    finished, and returns the best; only then is it streamed.
    """

    name: str = "visvm"
    temperatures: tuple[float, ...] = TEMPERATURES
    step_size: int = 1
    beam_width: int = 1
    max_sentences: int | None = None

    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        drafts = [Draft(branch)]
        while any(draft.is_live(self.max_sentences) for draft in drafts):
            kept = self._keep(await self._options(context, drafts))
            taken = {id(option): option.take(context) for option in kept}
            drafts = [taken[id(option)] for option in kept]
        best = drafts[first_best([fmean(draft.values or [-math.inf]) for draft in drafts])]
        for step in best.trace:
            context.on_step(step.candidates[step.choice].text, step)
        return close(best, self.name)

    async def _options(self, context: SearchContext, drafts: Sequence[Draft]) -> list[Option]:
        """Return every way in which the drafts may go on; a finished one stays as it is."""
        options, live = [], []
        for draft, schedule in self._schedules(drafts):
            if draft.is_live(self.max_sentences):
                live.append((draft, schedule))
            else:
                options += [Option(draft)] * len(schedule)  # as many as there are of its candidates
        for schedule in dict.fromkeys(schedule for _, schedule in live):
            group = [draft for draft, own in live if own == schedule]
            proposals = await context.propose([draft.branch for draft in group], schedule)
            for draft, candidates in zip(group, proposals, strict=True):
                count_tokens(draft, candidates)
                values = await score(context, draft, candidates)
                options += [Option(draft, candidates, values, choice) for choice in range(len(candidates))]
        return options

    def _schedules(self, drafts: Sequence[Draft]) -> list[tuple[Draft, tuple[float, ...]]]:
        """Return each draft with the temperatures of its candidates."""
        schedule = (0.0, *self.temperatures * self.step_size)
        return [(draft, schedule) for draft in drafts]

    def _keep(self, options: Sequence[Option]) -> list[Option]:
        """Return the best ``beam_width`` options with different texts, the first of equals first.

        Where means are equal, as rounding may make them, the last value decides.
        """
        ranked = sorted(options, key=lambda one: (fmean(one.all_values), one.all_values[-1]), reverse=True)
        different: dict[tuple[str, bool], Option] = {}
        for option in ranked:
            different.setdefault(option.text, option)
        return list(different.values())[: self.beam_width]


@dataclass(frozen=True)
class ParticleFilter(Beam):
    """Keep ``particles`` captions; each adds one sampled sentence a turn, then they are drawn anew by value.

    The weight of a particle is exp(V / (softness * s)), with the value V of its last sentence and the
    standard deviation s of V over all particles, so one setting fits scores of any scale. Resampling is
    systematic; the draw depends on the request and the turn alone. The caption of the highest mean value is
    returned. (Particle filtering at inference: arXiv 2502.01618.)
    """

    name: str = "particles"
    particles: int = 12
    temperature: float = 0.7
    softness: float = 0.5

    def _schedules(self, drafts: Sequence[Draft]) -> list[tuple[Draft, tuple[float, ...]]]:
        copies = self.particles // len(drafts)  # all particles begin with one draft
        numbers, known = Counter(map(id, drafts)), {id(draft): draft for draft in drafts}
        return [(known[key], (self.temperature,) * number * copies) for key, number in numbers.items()]

    def _keep(self, options: Sequence[Option]) -> list[Option]:
        values = [option.all_values[-1] for option in options]
        scale = self.softness * pstdev(values) or 1.0
        weights = [math.exp((value - max(values)) / scale) for value in values]
        request = options[0].draft.branch.request
        turn = max(len(option.all_values) for option in options)
        key = (request.seed, request.image.content_hash, str(request.prompt), request.start, turn)
        return [options[i] for i in _systematic(weights, random.Random(repr(key)).random())]


def _systematic(weights: Sequence[float], offset: float) -> list[int]:
    """Return as many indices as there are weights, index i about in proportion to weight i."""
    step, above = sum(weights) / len(weights), 0.0
    chosen: list[int] = []
    for i, weight in enumerate(weights):
        above += weight
        while len(chosen) < len(weights) and (len(chosen) + offset) * step < above:
            chosen.append(i)
    return chosen + [len(weights) - 1] * (len(weights) - len(chosen))
