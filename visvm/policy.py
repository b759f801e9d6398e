"""The policy: a VLM that proposes and commits sentences over a picture encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from visvm.engine import Block, Engine
from visvm.engine.sampling import sample, uniforms
from visvm.families import check_supported, family_of
from visvm.records import Branch, Candidate, FinishReason, Request
from visvm.sentences import first_sentence_end, split_sentences

CLOSERS = ".!?…。！？\n"
DROP_SHARE = 0.25  # finished rows are dropped once they are more than this share: dropping copies the rest


@dataclass(frozen=True, eq=False)
class TreeBranch:
    """A caption in progress: its picture's shared prefix, and its own keys and values after it.

    ``state`` [hidden] is the last hidden state, from which the next token is drawn. ``proposed``
    keeps what going on from a candidate needs, so that nothing is computed twice.
    """

    request: Request
    prefix: Block
    suffix: Block
    state: Tensor
    token_ids: tuple[int, ...] = ()
    text: str = ""
    sentences: tuple[str, ...] = ()
    ended: bool = False
    proposed: dict[tuple[int, ...], tuple[Block, Tensor]] = field(default_factory=dict, repr=False)


class SharedPrefixPolicy:
    """A ``Policy`` over the shared-prefix engine; exact: greedy equals ``generate`` token by token.

    End-of-text is never the first token of a step (``generate``'s ``min_new_tokens=1``): the end of
    a caption hangs on its last sentence, and a sentence is only given as not the last once what
    follows it was seen.
    """

    def __init__(
        self, model: Any, processor: Any, *, max_new_tokens: int = 512, top_p: float = 0.9, top_k: int = 0
    ) -> None:
        """``max_new_tokens`` bounds a whole caption; ``top_p``, ``top_k`` (0: off) all sampling."""
        self.family = family_of(model.model.eval(), processor)
        self.lm_head = model.lm_head
        self.engine = Engine(self.family)
        self.max_new_tokens, self.top_p, self.top_k = max_new_tokens, top_p, top_k
        self.eos_ids = _eos_ids(model, self.family.tokenizer)
        self._closes: dict[int, bool] = {}

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "cpu", dtype: str = "float32", **options: Any
    ) -> SharedPrefixPolicy:
        """Load a local directory or hub id.

        Raises:
            ValueError: the model cannot be found, or is not of a supported family.
        """
        check_supported(name)
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=getattr(torch, dtype))
        return cls(model.to(device), AutoProcessor.from_pretrained(name), **options)

    def open(self, requests: Sequence[Request]) -> list[Branch]:
        """One empty branch a request; requests with the same picture share its encoding."""
        pictures = {request.picture.content_hash: request.picture for request in requests}
        blocks = dict(zip(pictures, self.engine.prefill(list(pictures.values())), strict=True))
        prefixes = [blocks[request.picture.content_hash] for request in requests]
        prompts = [self.family.prompt_ids(request.prompt) for request in requests]
        longest = max(len(prompt) for prompt in prompts)
        fork = self.engine.fork(prefixes, [None] * len(prefixes), width=1)
        padded = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])
        hidden = fork.step(padded)
        return [
            TreeBranch(request, prefix, fork.block(i, len(prompt)), hidden[i, len(prompt) - 1].clone())
            for i, (request, prefix, prompt) in enumerate(zip(requests, prefixes, prompts, strict=True))
        ]

    def propose(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> list[list[Candidate]]:
        """One candidate a temperature (0: greedy) for each branch: a sentence, or all the rest.

        Raises:
            ValueError: a branch has ended already.
        """
        if not branches:
            return []
        return _Proposal(self, [_live(branch) for branch in branches], temperatures, whole=whole).run()

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """Append one of its own candidates to each branch.

        Raises:
            ValueError: the candidate was not proposed for this branch.
        """
        return [self._commit(_live(branch), one) for branch, one in zip(branches, chosen, strict=True)]

    def _commit(self, branch: TreeBranch, candidate: Candidate) -> Branch:
        suffix, state = branch.suffix, branch.state
        if not candidate.ended:
            if candidate.token_ids not in branch.proposed:
                raise ValueError(f"candidate {candidate.text!r} was not proposed for this branch")
            block, state = branch.proposed[candidate.token_ids]
            suffix = suffix.followed_by(block)
        return TreeBranch(
            branch.request,
            branch.prefix,
            suffix,
            state,
            token_ids=branch.token_ids + candidate.token_ids,
            text=branch.text + candidate.text,
            sentences=(*branch.sentences, *split_sentences(candidate.text)),
            ended=candidate.ended,
        )

    def closes(self, token: int) -> bool:
        """Whether the token's text could close a sentence."""
        if token not in self._closes:
            text = self.family.tokenizer.decode([token])
            self._closes[token] = any(closer in text for closer in CLOSERS)
        return self._closes[token]

    def sentence_length(self, branch: TreeBranch, tokens: Sequence[int], *, final: bool) -> int | None:
        """How many of ``tokens``, which follow the branch, are its next sentence.

        None while it is not closed: what follows it, or end-of-text (``final``), has to confirm it.
        A sentence that end-of-text alone closes is None too: it is the caption's last.
        """
        text = self.added_text(branch, tokens)
        end = first_sentence_end(text, final=final)
        if end is None or (final and not text[end:].strip()):
            return None
        length = len(tokens)
        while length > 1 and len(self.added_text(branch, tokens[: length - 1])) >= end:
            length -= 1
        return length

    def added_text(self, branch: TreeBranch, tokens: Sequence[int]) -> str:
        """What ``tokens`` add to the caption, decoded in context: a first space may depend on it."""
        whole = self.family.tokenizer.decode(
            [*branch.token_ids, *tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return whole[len(branch.text) :]


class _Row:
    """One candidate as it is written. ``states`` are the hidden states its tokens were drawn from."""

    def __init__(self, branch: TreeBranch, temperature: float, uniform: np.ndarray, room: int) -> None:
        self.branch, self.temperature, self.uniform, self.room = branch, temperature, uniform, room
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.states: list[Tensor] = [branch.state]
        self.armed = False
        self.done: Candidate | None = None

    def finish(self, num_tokens: int, text: str, reason: FinishReason) -> None:
        """Keep the first ``num_tokens`` as the candidate (end-of-text itself is not kept)."""
        log_prob = sum(self.log_probs[: num_tokens + (reason == "stop")])
        ids = tuple(self.tokens[:num_tokens])
        self.done = Candidate(text, ids, reason, self.temperature, log_prob)


class _Proposal:
    """One call of ``propose``: the rows of all branches decoded together, each until it is done."""

    def __init__(
        self,
        policy: SharedPrefixPolicy,
        branches: list[TreeBranch],
        temperatures: Sequence[float],
        *,
        whole: bool,
    ) -> None:
        self.policy, self.whole = policy, whole
        self.rows = [[self._row(branch, t, j) for j, t in enumerate(temperatures)] for branch in branches]
        prefixes, suffixes = [one.prefix for one in branches], [one.suffix for one in branches]
        self.fork = policy.engine.fork(prefixes, suffixes, width=len(temperatures))

    def _row(self, branch: TreeBranch, temperature: float, index: int) -> _Row:
        request, room = branch.request, self.policy.max_new_tokens - len(branch.token_ids)
        key = (request.seed, request.picture.id, request.prompt, branch.token_ids, self.whole, index)
        return _Row(branch, temperature, uniforms(*key, num=room), room)

    def run(self) -> list[list[Candidate]]:
        """Decode until every row is done."""
        live = [row for rows in self.rows for row in rows]
        states = torch.stack([row.states[0] for row in live])
        while True:
            tokens = self._draw(live, states)
            done = [self._check(row, i) for i, row in enumerate(live)]
            if all(done):
                return [[_finished(row) for row in rows] for rows in self.rows]
            if sum(done) > len(live) * DROP_SHARE:
                kept = [i for i, is_done in enumerate(done) if not is_done]
                self.fork.keep(kept)
                live, tokens = [live[i] for i in kept], tokens[kept]
            states = self.fork.step(tokens[:, None])[:, 0]
            for row, state in zip(live, states, strict=True):
                row.states.append(state)

    @torch.inference_mode()
    def _draw(self, live: list[_Row], states: Tensor) -> Tensor:
        """The next token of every row [rows], from hidden states [rows, hidden]."""
        policy, step = self.policy, len(live[0].states) - 1
        logits = policy.lm_head(states).float()
        if step == 0:
            logits[:, policy.eos_ids] = float("-inf")
        temperatures = torch.tensor([row.temperature for row in live], device=logits.device)
        uniform = torch.tensor([row.uniform[min(step, row.room - 1)] for row in live], device=logits.device)
        tokens = sample(logits, temperatures, uniform, top_p=policy.top_p, top_k=policy.top_k)
        log_probs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        for row, token, log_prob in zip(live, tokens.tolist(), log_probs.tolist(), strict=True):
            if row.done is None:
                row.tokens.append(token)
                row.log_probs.append(log_prob)
        return tokens

    def _check(self, row: _Row, index: int) -> bool:
        """Close the row if its last token completes it; whether it is done."""
        if row.done is not None:
            return True
        token = row.tokens[-1]
        ended = token in self.policy.eos_ids
        if not self.whole and (row.armed or ended):
            self._close_sentence(row, index, final=ended)
        row.armed = row.armed or self.policy.closes(token)
        if row.done is None and (ended or len(row.tokens) >= row.room):
            kept = row.tokens[:-1] if ended else row.tokens
            row.finish(len(kept), self.policy.added_text(row.branch, kept), "stop" if ended else "length")
        return row.done is not None

    def _close_sentence(self, row: _Row, index: int, *, final: bool) -> None:
        """End the row after its first sentence, if what follows it confirms that it is closed."""
        tokens = row.tokens[:-1] if final else row.tokens
        kept = self.policy.sentence_length(row.branch, tokens, final=final)
        if kept is None:
            return
        row.finish(kept, self.policy.added_text(row.branch, tokens[:kept]), "sentence")
        # What going on from here needs is taken now: the row may be dropped at once.
        block = self.fork.block(index, kept)
        row.branch.proposed[_finished(row).token_ids] = (block, row.states[kept].clone())


def _finished(row: _Row) -> Candidate:
    assert row.done is not None, "every row is closed when the loop ends"
    return row.done


def _live(branch: Branch) -> TreeBranch:
    if not isinstance(branch, TreeBranch):
        raise ValueError(f"a branch of another policy was given: {type(branch).__name__}")
    if branch.ended:
        raise ValueError(f"the caption of image {branch.request.picture.id!r} has ended already")
    return branch


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return list(ids) if isinstance(ids, list | tuple) else [ids]
