"""The policy: a VLM that proposes and commits sentences over images encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from visvm.decoder import Decoder, PolicyOptions, SentenceLength, TreeBranch
from visvm.detokenizer import next_unit
from visvm.engine import Engine, Prefix, SequenceBatch, pack_linears
from visvm.engine.sampling import Head
from visvm.engine.selftest import check_once
from visvm.families import Family
from visvm.families.limits import check_length
from visvm.families.loading import load_model
from visvm.records import Branch, Candidate, DecodedImage, Prompt, Request
from visvm.sentences import TERMINALS, split_sentences
from visvm.units import pieces

MIB = 2**20


class SharedPrefixPolicy:
    """A ``Policy`` over the shared-prefix engine; exact: greedy equals ``generate`` token by token.

    End-of-text is never the first token of a step (``generate``'s ``min_new_tokens=1``): the end of
    a caption hangs on its last sentence, and a sentence is only given as not the last once what
    follows it was seen.
    """

    def __init__(self, model: Any, processor: Any, **options: Any) -> None:
        """``options`` are fields of ``PolicyOptions``."""
        self.options = PolicyOptions(**options)
        limit = self.options.processor_pixels
        self.family = Family(model.model.eval(), processor, self.options.template, max_pixels=limit)
        self.eos_ids = _eos_ids(model, self.family.tokenizer)
        self.engine = Engine(self.family, max_images=self.options.max_images, compile=self.options.compile)
        is_fixed = self.options.cache_mb is not None or self.options.compile
        rows = SequenceBatch(self.engine, max_rows=self.options.max_rows, is_fixed=is_fixed)
        self.engine.packed += pack_linears(model.lm_head)
        self.decoder = Decoder(self, rows, Head(model.lm_head, self.family.text_config))
        self._closes: dict[int, bool] = {}
        self._stored: WeakValueDictionary[tuple[str, Prompt], Prefix] = WeakValueDictionary()

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "cpu", dtype: str = "float32", **options: Any
    ) -> SharedPrefixPolicy:
        """Load a directory (local, or a URI) or hub id.

        Raises:
            ValueError: the model cannot be found, is not of a supported family, fails the self-test, or
                has layers that ``compile`` does not take.
        """
        model, processor = load_model(name, dtype=dtype, device=device)
        policy = cls(model, processor, **options)
        check_once(model.eval(), policy.engine, policy.decoder.lm_head)
        return policy

    @property
    def num_free(self) -> int:
        """How many more images, of the sizes seen so far, may be opened now."""
        return self.engine.images.num_free

    def usage(self) -> dict[str, int]:
        """Return what is in use now: rows being written, rows that wait for a place, stored images."""
        return {
            "rows": len(self.decoder.live),
            "rows_waiting": len(self.decoder.waiting),
            "images": self.engine.images.num_used,
        }

    @property
    def is_busy(self) -> bool:
        """Whether candidates are being written."""
        return bool(self.decoder.proposals)

    def open(self, requests: Sequence[Request]) -> list[Branch]:
        """An empty branch for each of the first requests: for as many as there is room for now.

        Requests with the same image share its encoding. An image's place is free again once no
        branch of it is left.

        Raises:
            ValueError: there is no room for the first image even if no other is open.
        """
        if not requests:
            return []
        opened: list[Branch] = []
        budget = self.engine.images.budget
        try:
            opened = self._open(requests)
        finally:
            if not opened:  # a refused request leaves nothing behind
                self.engine.images.budget = budget
        # A request with a long prompt must not hold up the first.
        return opened or (self.open(requests[:1]) if len(requests) > 1 else [])

    def _open(self, requests: Sequence[Request]) -> list[Branch]:
        text, most = self.family.text_config, self.options.max_prompt_tokens
        for request in requests:
            check_length(text, self._num_prompt_tokens(request), most)
        self._share_budget(requests)
        keys = [self._prefix_key((request.image, request.prompt)) for request in requests]
        asked = dict(zip(keys, requests, strict=True))
        images, prompts = zip(*((one.image, one.prompt) for one in asked.values()), strict=True)
        known = dict(zip(asked, self.engine.prefill(images, prompts), strict=False))
        self._stored.update(known)
        opened = [(request, known[key]) for request, key in zip(requests, keys, strict=True) if key in known]
        return self._read_prompts([request for request, _ in opened], [prefix for _, prefix in opened])

    def stored(self, pairs: Sequence[tuple[DecodedImage, Prompt]]) -> list[Prefix]:
        """Return the stored images of (image, prompt) pairs; those that are not open are encoded now.

        Raises:
            ValueError: there is no room for all of them.
        """
        asked = {self._prefix_key(pair): pair for pair in pairs}
        known = {key: self._stored[key] for key in asked if key in self._stored}
        if missing := [key for key in asked if key not in known]:
            images, prompts = zip(*(asked[key] for key in missing), strict=True)
            known |= dict(zip(missing, self.engine.prefill(images, prompts), strict=False))
            self._stored.update(known)
        if len(known) < len(asked):
            raise ValueError(f"there is no room for {len(asked)} images at a time; ask about fewer at once")
        return [known[self._prefix_key(pair)] for pair in pairs]

    def states(self, branch: Branch, candidates: Sequence[Candidate]) -> Tensor:
        """Return the hidden states [n, hidden] behind the last tokens of candidates of this branch.

        Raises:
            ValueError: a candidate was not proposed for this branch.
        """
        known = _live(branch).states
        if unknown := [one.text for one in candidates if one.token_ids not in known]:
            raise ValueError(f"candidate {unknown[0]!r} was not proposed for this branch")
        return torch.stack([known[one.token_ids] for one in candidates])

    def _prefix_key(self, pair: tuple[DecodedImage, Prompt]) -> tuple[str, Prompt]:
        """What requests must have in common to share an encoding: the image, and a prompt read with it."""
        image, prompt = pair
        return image.content_hash, self.family.prefix_prompt(prompt)

    def _num_prompt_tokens(self, request: Request) -> int:
        """Return the tokens that are read behind the image: the prompt, and the start of the answer."""
        start = self.family.start_ids(request.prompt, request.start)
        return len(self.family.prompt_ids(request.prompt)) + len(start)

    def _share_budget(self, requests: Sequence[Request]) -> None:
        """Give to images what rows leave of the budget."""
        if self.options.cache_mb is not None:
            longest = max(map(self._num_prompt_tokens, requests))
            taken = self.decoder.rows.most_bytes(longest + self.options.max_new_tokens)
            self.engine.images.budget = max(0, self.options.cache_mb * MIB - taken)

    def _read_prompts(self, requests: Sequence[Request], prefixes: Sequence[Prefix]) -> list[Branch]:
        if not requests:
            return []
        starts = [tuple(self.family.start_ids(one.prompt, one.start)) for one in requests]
        prompts = [
            self.family.prompt_ids(one.prompt) + start for one, start in zip(requests, starts, strict=True)
        ]
        for prefix, prompt in zip(prefixes, prompts, strict=True):
            check_length(self.family.text_config, len(prompt), None, num_image=prefix.length)
        hidden, kv = self.engine.read(prefixes, prompts)
        return [
            TreeBranch(
                request,
                prefix,
                kv.row(i, 0, len(prompt)),
                hidden[i, len(prompt) - 1].clone() if prompt else prefix.state,
                num_prompt_tokens=prefix.length + len(prompt),
                token_ids=start,
                text=(text := self._decode(start)),
                sentences=tuple(split_sentences(text)),
                num_given=len(start),
            )
            for i, (request, prefix, prompt, start) in enumerate(
                zip(requests, prefixes, prompts, starts, strict=True)
            )
        ]

    def submit(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> int:
        """Ask for candidates; ``step`` gives them under the number returned.

        Raises:
            ValueError: a branch has ended already.
        """
        return self.decoder.submit([_live(branch) for branch in branches], temperatures, whole=whole)

    def step(self) -> dict[int, list[list[Candidate]] | Exception]:
        """Write one token of all candidates that have a row; the proposals complete or failed by now."""
        return self.decoder.step()

    def cancel(self, number: int) -> None:
        """Forget what was submitted under ``number``; its rows are free at once."""
        self.decoder.cancel(number)

    def clear(self) -> None:
        """Forget all that was submitted, and give back the room of images that are not open any more.

        What is computed next does not depend on what came before, to the bit.
        """
        self.decoder.clear()
        self.engine.clear()

    def propose(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> list[list[Candidate]]:
        """``submit``, and ``step`` until it is done: for when nothing else is being written.

        Raises:
            ValueError: a branch has ended already.
        """
        assert not self.is_busy, "other candidates are being written"
        number = self.submit(branches, temperatures, whole=whole)
        while not (done := self.step()):
            pass
        if isinstance(proposals := done[number], Exception):
            raise proposals
        return proposals

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
            kv, state = branch.proposed[candidate.token_ids]
            suffix = suffix.followed_by(kv)
            if self.family.has_states:  # those after the candidate were not kept: its tokens are read again
                hidden, read = self.engine.read([branch.prefix], [candidate.token_ids], [branch.suffix])
                suffix, state = read.row(0, 0, read.num_tokens), hidden[0, -1].clone()
        return TreeBranch(
            branch.request,
            branch.prefix,
            suffix,
            state,
            branch.num_prompt_tokens,
            token_ids=branch.token_ids + candidate.token_ids,
            text=branch.text + candidate.text,
            sentences=(*branch.sentences, *pieces(candidate.text, branch.request.unit)),
            ended=candidate.ended,
            num_given=branch.num_given,
        )

    def closes(self, token: int) -> bool:
        """Return whether the token's text could close a sentence, or complete a character that does."""
        if token not in self._closes:
            text = self.family.tokenizer.decode([token])
            self._closes[token] = not TERMINALS.isdisjoint(text) or "\ufffd" in text
        return self._closes[token]

    def next_sentence(self, branch: TreeBranch) -> SentenceLength:
        """Return what tells the length of the unit that follows the branch while it is written."""
        return next_unit(self._decode, branch.token_ids, branch.request.unit)

    def added_text(self, branch: TreeBranch, tokens: Sequence[int]) -> str:
        """Return what ``tokens`` add to the caption, decoded in context: a first space may depend on it."""
        return self._decode([*branch.token_ids, *tokens])[len(branch.text) :]

    def _decode(self, tokens: Sequence[int]) -> str:
        return self.family.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def _live(branch: Branch) -> TreeBranch:
    if not isinstance(branch, TreeBranch):
        raise ValueError(f"a branch of another policy was given: {type(branch).__name__}")
    if branch.ended:
        raise ValueError(f"the caption of image {branch.request.image.id!r} has ended already")
    return branch


def _eos_ids(model: Any, tokenizer: Any) -> list[int]:
    own = model.generation_config.eos_token_id
    return list(own) if isinstance(own, list | tuple) else [tokenizer.eos_token_id if own is None else own]
