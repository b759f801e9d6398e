"""What every search shares: drafts of captions, and a turn's three words: propose, score, commit."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

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
from visvm.sentences import split_sentences

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

    def is_live(self, max_sentences: int | None) -> bool:
        """Whether another sentence is wanted: the chosen candidate did not end it, the limit neither."""
        return not self.branch.ended and not at_limit(len(self.branch.sentences), max_sentences)


@dataclass(frozen=True)
class State:
    """A sentence of a draft after ``prefix``, to be scored; ``ended``: the caption ends with it."""

    draft: Draft
    prefix: tuple[str, ...]
    sentence: str
    ended: bool


def at_limit(num_sentences: int, max_sentences: int | None) -> bool:
    """Whether a caption of so many sentences may not grow."""
    return max_sentences is not None and num_sentences >= max_sentences


def open_drafts(policy: Policy, requests: Sequence[Request]) -> list[Draft]:
    """One empty draft for each request."""
    return [Draft(branch) for branch in policy.open(requests)] if requests else []


def propose(
    policy: Policy, drafts: Sequence[Draft], temperatures: Sequence[float], *, whole: bool = False
) -> list[list[Candidate]]:
    """One candidate a temperature for each draft, in one call; their tokens go on its bill."""
    proposals = policy.propose([draft.branch for draft in drafts], temperatures, whole=whole)
    for draft, candidates in zip(drafts, proposals, strict=True):
        count_tokens(draft, candidates)
    return proposals


def count_tokens(draft: Draft, candidates: Sequence[Candidate]) -> None:
    """Put every sampled token of ``candidates`` on the draft's bill."""
    draft.cost.num_generated_tokens += sum(len(candidate.token_ids) for candidate in candidates)


def score(
    scorer: Scorer, drafts: Sequence[Draft], proposals: Sequence[Sequence[Candidate]]
) -> list[list[float]]:
    """The value of every candidate of every draft, in one call of the scorer."""
    states = [
        State(draft, draft.branch.sentences, candidate.text, candidate.ended)
        for draft, candidates in zip(drafts, proposals, strict=True)
        for candidate in candidates
    ]
    values = iter(score_states(scorer, states))
    return [[next(values) for _ in candidates] for candidates in proposals]


def score_states(scorer: Scorer, states: Sequence[State]) -> list[float]:
    """One value a state; equal states of a draft are asked, and billed, once.

    Raises:
        FloatingPointError: a value is NaN or infinite, so nothing can be chosen by it.
    """
    groups: dict[tuple[int, tuple[str, ...]], tuple[Draft, dict[tuple[str, bool], None]]] = {}
    for state in states:
        _, sentences = groups.setdefault((id(state.draft), state.prefix), (state.draft, {}))
        sentences.setdefault((state.sentence.strip(), state.ended))
    answers = scorer.score(
        [_question(draft, prefix, list(group)) for (_, prefix), (draft, group) in groups.items()]
    )
    known: dict[tuple[int, tuple[str, ...]], dict[tuple[str, bool], float]] = {}
    for (key, (draft, group)), values in zip(groups.items(), answers, strict=True):
        _check(values)
        draft.cost.num_value_calls += len(group)
        known[key] = dict(zip(group, values, strict=True))
    return [known[id(s.draft), s.prefix][s.sentence.strip(), s.ended] for s in states]


def commit(
    policy: Policy,
    drafts: Sequence[Draft],
    proposals: Sequence[Sequence[Candidate]],
    values: Sequence[Sequence[float]],
) -> None:
    """Append to each draft its best candidate, and that alone decides whether the caption is over."""
    choices = [first_best(scores) for scores in values]
    chosen = [candidates[choice] for candidates, choice in zip(proposals, choices, strict=True)]
    branches = policy.commit([draft.branch for draft in drafts], chosen)
    for i, draft in enumerate(drafts):
        draft.branch = branches[i]
        draft.finish_reason = chosen[i].finish_reason
        draft.values.append(values[i][choices[i]])
        draft.trace.append(TraceStep(tuple(proposals[i]), tuple(values[i]), choices[i]))


def first_best(values: Sequence[float]) -> int:
    """The index of the highest value; of equals the first, which is the greedy candidate if in it."""
    return max(range(len(values)), key=values.__getitem__)


def close(drafts: Sequence[Draft], method: str, started: float) -> list[Caption]:
    """The captions of drafts written sentence by sentence since ``started`` (perf_counter seconds)."""
    seconds = (time.perf_counter() - started) / max(1, len(drafts))
    captions = []
    for draft in drafts:
        draft.cost.seconds = seconds
        reason: FinishReason = draft.finish_reason if draft.branch.ended else "length"
        captions.append(_caption(draft, method, draft.branch.sentences, reason))
    return captions


def close_whole(
    drafts: Sequence[Draft],
    chosen: Sequence[Candidate],
    *,
    method: str,
    started: float,
    max_sentences: int | None,
) -> list[Caption]:
    """The captions that take one whole candidate each, cut to ``max_sentences``."""
    seconds = (time.perf_counter() - started) / max(1, len(drafts))
    captions = []
    for draft, candidate in zip(drafts, chosen, strict=True):
        draft.cost.seconds = seconds
        sentences, is_cut = whole_sentences(candidate, max_sentences)
        reason: FinishReason = "length" if is_cut else candidate.finish_reason
        captions.append(_caption(draft, method, sentences, reason))
    return captions


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
        picture=request.picture,
        prompt=request.prompt,
        prefix=prefix,
        sentences=tuple(sentence for sentence, _ in group),
        ended=tuple(ended for _, ended in group),
    )


def _check(values: Sequence[float]) -> None:
    bad = [value for value in values if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(f"the scorer gave {bad[0]}; search needs finite scores")
