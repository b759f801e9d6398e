"""Candidates as they are written: rows of many proposals side by side, each until it is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from visvm.engine import KV, Prefix, SequenceBatch
from visvm.engine.sampling import sample, uniforms
from visvm.families.table import MAX_IMAGE_PIXELS
from visvm.records import Candidate, FinishReason, Request
from visvm.units import block_size


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory could not be allocated, on the CPU or a GPU."""
    kinds = MemoryError | torch.OutOfMemoryError
    return isinstance(error, kinds) or "can't allocate memory" in str(error)  # PyTorch's on the CPU


@dataclass(frozen=True, eq=False)
class TreeBranch:
    """A caption in progress: its stored image, and the text after it, the prompt included.

    ``suffix`` are that text's keys and values (one row), ``state`` [hidden] the last
    hidden state, from which the next token is drawn. ``num_prompt_tokens`` are those of image and prompt.
    The first ``num_given`` of ``token_ids`` are the start of the answer that the request gave.
    ``proposed`` keeps what going on from a candidate needs, so that nothing is computed twice, and
    ``states`` the last hidden state of each candidate sentence, by its tokens.
    """

    request: Request
    prefix: Prefix
    suffix: KV
    state: Tensor
    num_prompt_tokens: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    sentences: tuple[str, ...] = ()
    ended: bool = False
    num_given: int = 0
    proposed: dict[tuple[int, ...], tuple[KV, Tensor]] = field(default_factory=dict, repr=False)
    states: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class PolicyOptions:
    """How a policy samples, and how much it does at a time.

    ``max_new_tokens`` bounds a whole caption; ``top_p`` and ``top_k`` (0: off) all sampling.
    ``max_images`` are open at a time, ``max_rows`` candidates written; the keys and values of both take
    at most ``cache_mb`` MiB, if that is given. A prompt has at most ``max_prompt_tokens``. ``template`` are
    options of the chat template, such as ``{"enable_thinking": False}``. ``compile`` makes the decoding step
    one compiled graph: see ``engine.static_step``. ``processor_pixels``: see ``families.limits.cap_pixels``.
    """

    max_new_tokens: int = 512
    top_p: float = 0.9
    top_k: int = 0
    max_images: int = 64
    max_rows: int = 192
    cache_mb: int | None = None
    max_prompt_tokens: int | None = None
    compile: bool = False
    processor_pixels: int = MAX_IMAGE_PIXELS
    template: Mapping[str, Any] = field(default_factory=dict)


class SentenceLength(Protocol):
    """Tells the length of one sentence while it is written."""

    def length(self, tokens: Sequence[int], *, final: bool) -> int | None:
        """Return how many of the tokens are the sentence; None while it is not closed."""
        ...


class Language(Protocol):
    """What the decoder needs to know of tokens and sentences."""

    eos_ids: list[int]
    options: PolicyOptions

    def closes(self, token: int) -> bool:
        """Whether the token's text could close a sentence."""
        ...

    def next_sentence(self, branch: TreeBranch) -> SentenceLength:
        """Return what tells the length of the branch's next sentence while it is written."""
        ...

    def added_text(self, branch: TreeBranch, tokens: Sequence[int]) -> str:
        """What tokens add to the caption."""
        ...


class PendingCandidate:
    """One candidate as it is written. ``states`` are the hidden states its tokens were drawn from."""

    def __init__(self, branch: TreeBranch, temperature: float, uniform: np.ndarray, *, ticket: int) -> None:
        self.branch, self.temperature, self.uniform, self.ticket = branch, temperature, uniform, ticket
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.states: list[Tensor] = [branch.state]
        self.sentence: SentenceLength | None = None  # from the first token on that could close one
        self.done: Candidate | None = None

    @property
    def room(self) -> int:
        """Tokens it may have at most."""
        return len(self.uniform)

    @property
    def capacity(self) -> int:
        """Tokens it may have at most, with the text before it."""
        return self.branch.suffix.num_tokens + self.room

    def finish(self, num_tokens: int, text: str, reason: FinishReason) -> None:
        """Keep the first ``num_tokens`` as the candidate (end-of-text itself is not kept)."""
        log_prob = sum(self.log_probs[: num_tokens + (reason == "stop")])
        ids = tuple(self.tokens[:num_tokens])
        self.done = Candidate(text, ids, reason, self.temperature, log_prob)
        # Of a candidate cut by its length, the state behind its last token was not computed.
        self.branch.states[ids] = self.states[min(num_tokens, len(self.states) - 1)].clone()


@dataclass
class Proposal:
    """Of each branch one row a temperature, and how many of them are not done yet.

    ``whole``: each writes all the rest of its caption, not a sentence.
    """

    rows: list[list[PendingCandidate]]
    whole: bool
    num_left: int


class Decoder:
    """Decodes all rows that have a place together; rows that wait take the places of those that are done."""

    def __init__(self, language: Language, rows: SequenceBatch, lm_head: nn.Module) -> None:
        self.language, self.rows, self.lm_head = language, rows, lm_head
        self.live: list[PendingCandidate] = []
        self.waiting: deque[PendingCandidate] = deque()
        self.proposals: dict[int, Proposal] = {}
        self.failed: dict[int, Exception] = {}
        self._tickets = 0

    def submit(self, branches: Sequence[TreeBranch], temperatures: Sequence[float], *, whole: bool) -> int:
        """Ask for one candidate a temperature for each branch; the ticket by which ``step`` answers."""
        self._tickets += 1
        rows = [[self._row(branch, t, (whole, j)) for j, t in enumerate(temperatures)] for branch in branches]
        flat = [row for one in rows for row in one]
        self.proposals[self._tickets] = Proposal(rows, whole, len(flat))
        self.waiting += flat
        return self._tickets

    def _row(self, branch: TreeBranch, temperature: float, place: tuple[bool, int]) -> PendingCandidate:
        request, most = branch.request, self.language.options.max_new_tokens
        room = min(most, request.max_tokens or most) - len(branch.token_ids) + branch.num_given
        key = (request.seed, request.image.content_hash, request.prompt, branch.token_ids, *place)
        return PendingCandidate(branch, temperature, uniforms(*key, num=room), ticket=self._tickets)

    def step(self) -> dict[int, list[list[Candidate]] | Exception]:
        """One token for every row that has a place; the proposals that are complete or failed now, by ticket.

        A proposal fails alone where its logits are not finite or there is no memory for its rows.
        """
        self._seat()
        if self.live:
            self._draw()
            self._leave([i for i, row in enumerate(self.live) if self._check(row, i)])
        self._append()
        failed, self.failed = self.failed, {}
        return {**self._complete(), **failed}

    def _append(self) -> None:
        """Run the tokens just drawn; while there is no memory for that, the longest row's proposal fails."""
        while self.live:
            try:
                states = self.rows.step([row.tokens[-1] for row in self.live])
            except (MemoryError, RuntimeError) as error:
                self._fail(max(self.live, key=lambda row: row.capacity).ticket, error)
                continue
            for row, state in zip(self.live, states.unbind(0), strict=True):
                row.states.append(state)
            return

    def _fail(self, ticket: int, error: Exception) -> None:
        """End one proposal with an error; any other than a lack of memory is raised: it is everybody's."""
        if not isinstance(error, ValueError) and not is_out_of_memory(error):
            raise error
        self.cancel(ticket)
        self.failed[ticket] = error.with_traceback(None)  # whose frames would keep the memory

    def cancel(self, ticket: int) -> None:
        """Forget one proposal."""
        self._leave([i for i, row in enumerate(self.live) if row.ticket == ticket])
        self.waiting = deque(row for row in self.waiting if row.ticket != ticket)
        self.proposals.pop(ticket, None)

    def clear(self) -> None:
        """Forget all proposals."""
        self.live, self.proposals, self.failed = [], {}, {}
        self.waiting.clear()
        self.rows.clear()

    def _seat(self) -> None:
        while self.waiting and self.rows.has_room(self.waiting[0].capacity):
            row = self.waiting.popleft()
            try:
                self.rows.add(row.branch.prefix, row.branch.suffix, capacity=row.capacity)
            except (MemoryError, RuntimeError) as error:
                self._fail(row.ticket, error)
            else:
                self.live.append(row)

    def _leave(self, done: Sequence[int]) -> None:
        for i in reversed(done):
            self.proposals[self.live[i].ticket].num_left -= 1
            self.rows.drop(i)
            last = self.live.pop()
            if i < len(self.live):
                self.live[i] = last

    def _complete(self) -> dict[int, list[list[Candidate]]]:
        complete = [ticket for ticket, one in self.proposals.items() if one.num_left == 0]
        proposals = {ticket: self.proposals.pop(ticket) for ticket in complete}
        return {
            ticket: [[row.done for row in rows if row.done] for rows in one.rows]
            for ticket, one in proposals.items()
        }

    @torch.inference_mode()
    def _draw(self) -> None:
        """The next token of every row."""
        language = self.language
        states = torch.stack([row.states[-1] for row in self.live])
        logits = self.lm_head(states).float()
        steps = [len(row.tokens) for row in self.live]
        first = torch.tensor([step == 0 for step in steps], device=logits.device)
        for token in language.eos_ids:
            logits[:, token] = logits[:, token].masked_fill(first, float("-inf"))
        temperatures = torch.tensor([row.temperature for row in self.live], device=logits.device)
        numbers = [row.uniform[step] for row, step in zip(self.live, steps, strict=True)]
        uniform = torch.tensor(numbers, device=logits.device)
        options = language.options
        tokens = sample(logits, temperatures, uniform, top_p=options.top_p, top_k=options.top_k)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        for row, token, log_prob in zip(self.live, tokens.tolist(), log_probs.tolist(), strict=True):
            row.tokens.append(token)
            row.log_probs.append(log_prob)
        for ticket in {row.ticket for row in self.live if not isfinite(row.log_probs[-1])}:
            self._fail(ticket, ValueError("the model computes logits that are not finite: NaN or overflow"))

    def _check(self, row: PendingCandidate, index: int) -> bool:
        """Close the row if its last token completes it; whether it is done."""
        token = row.tokens[-1]
        ended = token in self.language.eos_ids
        if not self.proposals[row.ticket].whole:
            self._close_sentence(row, index, final=ended)
        if row.done is None and (ended or len(row.tokens) >= row.room):
            kept = row.tokens[:-1] if ended else row.tokens
            row.finish(len(kept), self.language.added_text(row.branch, kept), "stop" if ended else "length")
        return row.done is not None

    def _close_sentence(self, row: PendingCandidate, index: int, *, final: bool) -> None:
        """End the row after its first sentence, if what follows it confirms that it is closed."""
        if row.sentence is None:
            is_block = block_size(row.branch.request.unit) is not None
            if not final and (is_block or self.language.closes(row.tokens[-1])):
                row.sentence = self.language.next_sentence(row.branch)
            return
        tokens = row.tokens[:-1] if final else row.tokens
        kept = row.sentence.length(tokens, final=final)
        if kept is None:
            return
        row.finish(kept, self.language.added_text(row.branch, tokens[:kept]), "sentence")
        # What going on from here needs is taken now: the row is dropped at once.
        start = row.branch.suffix.num_tokens
        row.branch.proposed[tuple(tokens[:kept])] = (
            self.rows.text(index, start, start + kept),
            row.branch.states[tuple(tokens[:kept])],
        )
