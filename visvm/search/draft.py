"""What every search shares: drafts of captions, and a turn's three words: propose, score, commit."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from visvm.records import (
    Branch,
    Candidate,
    Caption,
    Cost,
    FinishReason,
    Policy,
    Question,
    Request,
    Scorer,
    TraceStep,
)
from visvm.search.scheduler import SearchContext, run_searches
from visvm.sentences import split_sentences

Needs = Literal["none", "reward", "value", "reward+future"]
TEMPERATURES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""The sampling temperatures of the paper's candidates."""


@dataclass
class Draft:
    """A caption in progress: where it stands, the choices so far, what they cost."""

    branch: Branch
    finish_reason: FinishReason = "sentence"
    values: list[float] = field(default_factory=list)
    trace: list[TraceStep] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.cost.num_prompt_tokens = self.branch.num_prompt_tokens

    def is_live(self, max_sentences: int | None) -> bool:
        """Whether another sentence is wanted: the chosen candidate did not end it, the limit neither."""
        return not self.branch.ended and not at_limit(len(self.branch.sentences), max_sentences)


@dataclass(frozen=True)
class State:
    """A sentence after ``prefix``, to be scored; ``ended``: the caption ends with it."""

    prefix: tuple[str, ...]
    sentence: str
    ended: bool


class SentenceSearch:
    """A ``Search`` by what it does for one caption: a coroutine ``write`` over a ``SearchContext``.

    Subclass it to add a search; see ``Stepwise`` for the shortest useful one. ``needs`` is the scorer that
    a search of the user's own gets: "none", "reward", "value" or "reward+future".
    """

    name: str
    needs: ClassVar[Needs] = "none"

    @abstractmethod
    async def write(self, context: SearchContext, branch: Branch) -> Caption:
        """Return the caption of a branch just opened."""

    def __call__(self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]) -> list[Caption]:
        """Return the captions of the requests, written concurrently, each with its share of the time."""
        started = time.perf_counter()
        captions = run_searches(policy, scorer, requests, self.write)
        for caption in captions:
            caption.cost.seconds = (time.perf_counter() - started) / len(captions)
        return captions


def at_limit(num_sentences: int, max_sentences: int | None) -> bool:
    """Whether a caption of so many sentences may not grow."""
    return max_sentences is not None and num_sentences >= max_sentences


async def propose(
    context: SearchContext, draft: Draft, temperatures: Sequence[float], *, whole: bool = False
) -> list[Candidate]:
    """One candidate a temperature; their tokens go on the draft's bill."""
    (candidates,) = await context.propose([draft.branch], temperatures, whole=whole)
    count_tokens(draft, candidates)
    return candidates


def count_tokens(draft: Draft, candidates: Sequence[Candidate]) -> None:
    """Put every sampled token of ``candidates`` on the draft's bill."""
    draft.cost.num_generated_tokens += sum(len(candidate.token_ids) for candidate in candidates)


async def score(context: SearchContext, draft: Draft, candidates: Sequence[Candidate]) -> list[float]:
    """The value of every candidate for the draft's next sentence."""
    prefix = draft.branch.sentences
    return await score_states(context, draft, [State(prefix, one.text, one.ended) for one in candidates])


async def score_states(context: SearchContext, draft: Draft, states: Sequence[State]) -> list[float]:
    """One value a state; equal states are asked, and billed, once.

    Raises:
        FloatingPointError: a value is NaN or infinite, so nothing can be chosen by it.
    """
    groups: dict[tuple[str, ...], dict[tuple[str, bool], None]] = {}
    for state in states:
        groups.setdefault(state.prefix, {}).setdefault((state.sentence.strip(), state.ended))
    questions = [_question(draft, prefix, list(group)) for prefix, group in groups.items()]
    answers = await context.score(questions) if questions else []
    known: dict[tuple[str, ...], dict[tuple[str, bool], float]] = {}
    for (prefix, group), values in zip(groups.items(), answers, strict=True):
        _check(values, len(group))
        draft.cost.num_value_calls += len(group)
        known[prefix] = dict(zip(group, values, strict=True))
    return [known[state.prefix][state.sentence.strip(), state.ended] for state in states]


def commit(
    context: SearchContext, draft: Draft, candidates: Sequence[Candidate], values: Sequence[float]
) -> None:
    """Append the best candidate to the draft; that alone decides whether the caption is over."""
    choice = first_best(values)
    (draft.branch,) = context.commit([draft.branch], [candidates[choice]])
    draft.finish_reason = candidates[choice].finish_reason
    draft.values.append(values[choice])
    draft.trace.append(TraceStep(tuple(candidates), tuple(values), choice))
    context.on_step(candidates[choice].text, draft.trace[-1])


def first_best(values: Sequence[float]) -> int:
    """The index of the highest value; of equals the first, which is the greedy candidate if in it."""
    return max(range(len(values)), key=values.__getitem__)


def close(draft: Draft, method: str) -> Caption:
    """The caption of a draft written sentence by sentence."""
    reason: FinishReason = draft.finish_reason if draft.branch.ended else "length"
    return _caption(draft, method, draft.branch.sentences, reason)


def close_whole(draft: Draft, candidate: Candidate, method: str, max_sentences: int | None) -> Caption:
    """The caption that takes one whole candidate, cut to ``max_sentences``."""
    sentences, is_cut = whole_sentences(candidate, max_sentences)
    reason: FinishReason = "length" if is_cut else candidate.finish_reason
    return _caption(draft, method, sentences, reason)


def whole_sentences(candidate: Candidate, max_sentences: int | None) -> tuple[tuple[str, ...], bool]:
    """The sentences of a whole candidate up to the limit, and whether the limit cut some off."""
    sentences = tuple(split_sentences(candidate.text))
    return sentences[:max_sentences], max_sentences is not None and len(sentences) > max_sentences


def _caption(draft: Draft, method: str, sentences: tuple[str, ...], reason: FinishReason) -> Caption:
    return Caption(
        request=draft.branch.request,
        method=method,
        text="".join(sentences),
        sentences=sentences,
        values=tuple(draft.values),
        finish_reason=reason,
        trace=tuple(draft.trace),
        cost=draft.cost,
    )


def _question(draft: Draft, prefix: tuple[str, ...], group: Sequence[tuple[str, bool]]) -> Question:
    request = draft.branch.request
    return Question(
        image=request.image,
        prompt=request.prompt,
        prefix=prefix,
        sentences=tuple(sentence for sentence, _ in group),
        ended=tuple(ended for _, ended in group),
    )


def _check(values: Sequence[float], num: int) -> None:
    if len(values) != num:
        raise ValueError(f"the scorer gave {len(values)} scores for {num} sentences")
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"the scorer gave {bad[0]}; search needs finite scores")
