"""What all searches share: the draft of a caption, and the three parts of a turn: propose, score, commit."""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
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
    """A caption in progress: its branch, the choices so far, and their cost."""

    branch: Branch
    finish_reason: FinishReason = "sentence"
    values: list[float] = field(default_factory=list)
    trace: list[TraceStep] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    is_stopped: bool = False

    def __post_init__(self) -> None:
        self.cost.num_prompt_tokens = self.branch.num_prompt_tokens
        self.given = self.branch.sentences

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences written so far, without those that the request gave."""
        return self.branch.sentences[len(self.given) :]

    def is_live(self, max_sentences: int | None) -> bool:
        """Return whether the caption goes on: no choice, veto, stop text or limit has ended it."""
        if self.branch.ended or self.is_stopped or at_limit(len(self.sentences), max_sentences):
            return False
        return find_stop("".join(self.sentences), self.branch.request.stop) is None


@dataclass(frozen=True)
class State:
    """A sentence to be scored after ``prefix``; ``ended`` if the policy ends the caption with it.

    A sentence that a limit cuts, or after which a limit cuts the caption, is not ended.
    """

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

    @property
    def judges(self) -> bool:
        """Whether it asks for rewards beside the scores of what it ``needs``."""
        return False

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
    """Return whether a caption of ``num_sentences`` has reached the limit (None: no limit)."""
    return max_sentences is not None and num_sentences >= max_sentences


async def propose(
    context: SearchContext, draft: Draft, temperatures: Sequence[float], *, whole: bool = False
) -> list[Candidate]:
    """Propose one candidate per temperature; add their tokens to the cost of the draft."""
    (candidates,) = await context.propose([draft.branch], temperatures, whole=whole)
    count_tokens(draft, candidates)
    return candidates


def count_tokens(draft: Draft, candidates: Sequence[Candidate]) -> None:
    """Add every sampled token of ``candidates`` to the cost of the draft."""
    draft.cost.num_generated_tokens += sum(len(candidate.token_ids) for candidate in candidates)


async def score(context: SearchContext, draft: Draft, candidates: Sequence[Candidate]) -> list[float]:
    """Return the score of every candidate for the next sentence of the draft."""
    if context.head is not None:
        return _checked(context.head.score_candidates(draft.branch, candidates), len(candidates))
    prefix = draft.branch.sentences
    return await score_states(context, draft, [State(prefix, one.text, one.is_last) for one in candidates])


async def score_states(context: SearchContext, draft: Draft, states: Sequence[State]) -> list[float]:
    """Return one score per state; equal states are scored, and counted in the cost, once.

    Raises:
        FloatingPointError: a score is NaN or infinite, so candidates cannot be compared.
    """
    groups: dict[tuple[str, ...], dict[tuple[str, bool], None]] = {}
    for state in states:
        groups.setdefault(state.prefix, {}).setdefault((state.sentence.strip(), state.ended))
    questions = [_question(draft, prefix, list(group)) for prefix, group in groups.items()]
    answers = await context.score(questions) if questions else []
    known: dict[tuple[str, ...], dict[tuple[str, bool], float]] = {}
    for (prefix, group), values in zip(groups.items(), answers, strict=True):
        _checked(values, len(group))
        draft.cost.num_value_calls += len(group)
        known[prefix] = dict(zip(group, values, strict=True))
    return [known[state.prefix][state.sentence.strip(), state.ended] for state in states]


async def score_rewards(context: SearchContext, draft: Draft, sentences: Sequence[str]) -> list[float]:
    """Return the reward of each sentence alone; equal ones are scored, and counted in the cost, once."""
    distinct = list(dict.fromkeys(sentence.strip() for sentence in sentences))
    if not distinct:
        return []
    asked = _question(draft, (), [(sentence, False) for sentence in distinct])
    (rewards,) = await context.score([replace(asked, asks_reward=True)])
    draft.cost.num_value_calls += len(distinct)
    known = dict(zip(distinct, _checked(rewards, len(distinct)), strict=True))
    return [known[sentence.strip()] for sentence in sentences]


def commit(
    context: SearchContext,
    draft: Draft,
    candidates: Sequence[Candidate],
    values: Sequence[float],
    *,
    among: Sequence[int] | None = None,
) -> None:
    """Append the best candidate (``among`` those of these indices) to the draft; it alone decides the end."""
    indices = range(len(values)) if among is None else among
    choice = indices[first_best([values[i] for i in indices])]
    (draft.branch,) = context.commit([draft.branch], [candidates[choice]])
    draft.finish_reason = candidates[choice].finish_reason
    draft.values.append(values[choice])
    draft.trace.append(TraceStep(tuple(candidates), tuple(values), choice))
    context.on_step(candidates[choice].text, draft.trace[-1])


def first_best(values: Sequence[float]) -> int:
    """Return the index of the highest value; the first of equals, so the greedy candidate wins ties."""
    return max(range(len(values)), key=values.__getitem__)


def close(draft: Draft, method: str) -> Caption:
    """Return the finished caption of a draft written sentence by sentence."""
    not_chosen: FinishReason = "stop" if draft.is_stopped else "length"
    reason = draft.finish_reason if draft.branch.ended else not_chosen
    return _caption(draft, method, draft.sentences, reason)


def close_whole(draft: Draft, candidate: Candidate, method: str, max_sentences: int | None) -> Caption:
    """Return the caption that consists of one whole candidate, cut to ``max_sentences``."""
    sentences, is_cut = whole_sentences(candidate, max_sentences)
    reason: FinishReason = "length" if is_cut else candidate.finish_reason
    return _caption(draft, method, sentences, reason)


def whole_sentences(candidate: Candidate, max_sentences: int | None) -> tuple[tuple[str, ...], bool]:
    """Return the sentences of a whole candidate up to the limit, and whether the limit cut any off."""
    sentences = tuple(split_sentences(candidate.text))
    return sentences[:max_sentences], max_sentences is not None and len(sentences) > max_sentences


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return where the first of the texts ``stops`` begins; None if there is none."""
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def _caption(draft: Draft, method: str, sentences: tuple[str, ...], reason: FinishReason) -> Caption:
    end = find_stop("".join(sentences), draft.branch.request.stop)
    if end is not None:
        sentences, reason = _cut(sentences, end), "stop"
    return Caption(
        request=draft.branch.request,
        method=method,
        text="".join(sentences),
        sentences=sentences,
        values=tuple(draft.values[: len(sentences)]),
        finish_reason=reason,
        trace=tuple(draft.trace),
        cost=draft.cost,
    )


def _cut(sentences: Sequence[str], end: int) -> tuple[str, ...]:
    """Return the first ``end`` characters of the sentences, as sentences."""
    starts = accumulate(map(len, sentences), initial=0)
    cut = [text[: max(0, end - start)] for text, start in zip(sentences, starts, strict=False)]
    return tuple(filter(None, cut))


def _question(draft: Draft, prefix: tuple[str, ...], group: Sequence[tuple[str, bool]]) -> Question:
    request = draft.branch.request
    return Question(
        image=request.image,
        prompt=request.prompt,
        prefix=prefix,
        sentences=tuple(sentence for sentence, _ in group),
        ended=tuple(ended for _, ended in group),
    )


def _checked(values: list[float], num: int) -> list[float]:
    if len(values) != num:
        raise ValueError(f"the scorer gave {len(values)} scores for {num} sentences")
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"the scorer returned {bad[0]}; a search needs finite scores")
    return values
