"""Prefill images once; read texts behind them, and write any number of continuations concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from visvm.engine.attention import AttentionPass
from visvm.engine.image_store import ImageStore, Prefix
from visvm.engine.kv import KV
from visvm.engine.linear import few_rows, pack_linears, refresh
from visvm.engine.row_state import RowStates, Tensors, joined, tracking
from visvm.engine.static_step import StaticStep
from visvm.records import DecodedImage, Prompt

if TYPE_CHECKING:
    from visvm.families import Family, Inputs

PREFILL_BATCH = 16  # images encoded together: bounds what prefill takes beside the store


class Engine:
    """A family's language model over images that are stored once. Inference only; exact for any batch."""

    def __init__(
        self, family: Family, *, max_images: int = 64, budget: int | None = None, compile: bool = False
    ) -> None:
        """At most ``max_images`` are stored at a time, in at most ``budget`` bytes.

        With ``compile`` the decoding step is one compiled graph: see ``StaticStep``.
        """
        self.family = family
        self.packed = pack_linears(family.language_model)
        self.images = ImageStore(self.new_kv, max_images=max_images, budget=budget)
        self.static_step = StaticStep(family) if compile else None

    def new_kv(self, rows: int, tokens: int) -> KV:
        """Return room for the keys and values of rows of tokens, all zeros."""
        weight = self.family.base.get_input_embeddings().weight
        return self.family.layout.zeros(rows, tokens, like=weight)

    def clear(self) -> None:
        """Give back the room of images that nobody refers to any more."""
        self.images.clear()

    @torch.inference_mode()
    def prefill(
        self, images: Sequence[DecodedImage], prompts: Sequence[Prompt] | None = None
    ) -> list[Prefix]:
        """Encode and store the first of the images: as many as there is room for now.

        ``prompts`` matter only as far as they are read with the image: see ``Family.prefix_prompt``.

        Raises:
            ValueError: the first does not fit even into an empty store.
        """
        refresh(self.packed)
        prefixes: list[Prefix] = []
        for start in range(0, len(images), PREFILL_BATCH):
            part = slice(start, start + PREFILL_BATCH)
            inputs = self.family.preprocess(images[part], prompts[part] if prompts else None)
            lengths = [one["input_ids"].shape[1] for one in inputs]
            num = self.images.reserve(lengths, num_coming=len(images) - start - len(inputs))
            prefixes += self._store(inputs[:num])
            if num < len(inputs):
                break
        return prefixes

    def _store(self, inputs: Sequence[Inputs]) -> list[Prefix]:
        prefixes = [self.images.take(one["input_ids"].shape[1]) for one in inputs]

        def record(members: Sequence[int], layer: int, key: Tensor, value: Tensor) -> None:
            slots, kv = [prefixes[i].slot for i in members], self.images.kv.layer(layer)
            kv[0, :, :, : key.shape[2]][slots] = key
            kv[1, :, :, : key.shape[2]][slots] = value

        for prefix, end in zip(prefixes, self.family.read(inputs, record), strict=True):
            prefix.next_position, prefix.state, prefix.row_states = end
        return prefixes

    @torch.inference_mode()
    def read(
        self,
        prefixes: Sequence[Prefix],
        texts: Sequence[Sequence[int]],
        befores: Sequence[KV | None] | None = None,
    ) -> tuple[Tensor, KV]:
        """Read token rows, each behind its image and then ``befores`` (one row each); a row may be empty.

        Returns the last hidden states [R, L, hidden], and the keys and values of the rows, what came
        before included; both right padded.
        """
        before = [None] * len(texts) if befores is None else list(befores)
        if not self.family.has_states:
            return self._read(prefixes, texts, before)
        # States are those after the last token, so padding must not follow it: texts of one length together.
        parts, tokens = [], 0
        for length in sorted({len(text) for text in texts}):
            members = [i for i, text in enumerate(texts) if len(text) == length]
            behind, rows = [prefixes[i] for i in members], [texts[i] for i in members]
            hidden, kv = self._read(behind, rows, [before[i] for i in members])
            parts += [(i, hidden[row], kv.row(row, 0, kv.num_tokens)) for row, i in enumerate(members)]
            tokens = max(tokens, kv.num_tokens)
        own = self.new_kv(len(texts), tokens)
        for i, _, kv in parts:
            own.put(i, kv)
        parts.sort(key=lambda part: part[0])
        states = joined([kv.states or {} for _, _, kv in parts])
        return pad_sequence([hidden for _, hidden, _ in parts], batch_first=True), replace(own, states=states)

    def _read(
        self, prefixes: Sequence[Prefix], texts: Sequence[Sequence[int]], before: Sequence[KV | None]
    ) -> tuple[Tensor, KV]:
        starts = [0 if kv is None else kv.num_tokens for kv in before]
        states = RowStates(self.states_of(prefixes, before))
        tokens = pad_sequence([torch.tensor(row, dtype=torch.long) for row in texts], batch_first=True)
        own = self.new_kv(len(texts), max(starts) + tokens.shape[1])
        for i, kv in enumerate(before):
            if kv is not None:
                own.put(i, kv)
        if tokens.shape[1] == 0:  # empty texts: nothing is computed, all is as it was before
            hidden = own.groups[0].new_zeros(len(texts), 0, prefixes[0].state.shape[-1])
            return hidden, replace(own, states=states.before if self.family.has_states else None)
        device = self.family.device
        rows = AttentionPass(self.images.shared(prefixes), own, starts, length=tokens.shape[1])
        offsets = torch.tensor([prefix.next_position for prefix in prefixes], device=device)
        hidden = self.append(rows, offsets, tokens.to(device), states)
        return hidden, replace(own, states=states.after if self.family.has_states else None)

    def states_of(self, prefixes: Sequence[Prefix], texts: Sequence[KV | None]) -> Tensors:
        """Return the states after each text, or of its image where there is none; no layer may have any."""
        pairs = zip(prefixes, texts, strict=True)
        known = [kv.states if kv and kv.states else prefix.row_states for prefix, kv in pairs]
        return joined(known) if self.family.has_states else {}

    def append(self, rows: AttentionPass, offsets: Tensor, tokens: Tensor, states: RowStates) -> Tensor:
        """Run tokens [R, L] whose rows' texts start at rotary position ``offsets`` [R]; the hidden states.

        ``states`` are those that layers without attention begin with, and will hold those they end with.
        """
        given = self.family.text_inputs(tokens, offsets[:, None] + rows.columns)
        with few_rows(), tracking(states):
            return self.family.language_model(**given, use_cache=False, rows=rows).last_hidden_state
