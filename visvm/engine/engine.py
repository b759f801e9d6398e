"""Prefill images once; read texts behind them, and write any number of continuations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from visvm.engine.attention import AttentionPass, no_mask, use_row_attention
from visvm.engine.image_store import ImageStore, Prefix
from visvm.engine.linear import pack_linears
from visvm.families import EncodedImage, Family
from visvm.records import DecodedImage

PREFILL_BATCH = 16  # images encoded together: bounds what prefill takes beside the store


class Engine:
    """A family's language model over images that are stored once. Inference only; exact for any batch."""

    def __init__(self, family: Family, *, max_images: int = 64, budget: int | None = None) -> None:
        """At most ``max_images`` are stored at a time, in at most ``budget`` bytes."""
        self.family = family
        self.language_model: Any = family.base.language_model
        use_row_attention(family.base)
        pack_linears(self.language_model)
        self.images = ImageStore(self.new_kv, max_images=max_images, budget=budget)

    def new_kv(self, rows: int, tokens: int) -> Tensor:
        """Room for keys and values: zeros [layers, 2, rows, kv heads, tokens, D]."""
        config, weight = self.family.text_config, self.family.base.get_input_embeddings().weight
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, tokens, dim)
        return weight.new_zeros(shape, requires_grad=False)

    def clear(self) -> None:
        """Give back the room of images that nobody refers to any more."""
        self.images.clear()

    @torch.inference_mode()
    def prefill(self, images: Sequence[DecodedImage]) -> list[Prefix]:
        """Encode and store the first of the images: as many as there is room for now.

        Raises:
            ValueError: the first does not fit even into an empty store.
        """
        prefixes: list[Prefix] = []
        for start in range(0, len(images), PREFILL_BATCH):
            part = images[start : start + PREFILL_BATCH]
            inputs = self.family.preprocess(part)
            num_coming = len(images) - start - len(part)
            num = self.images.reserve(self.family.prefix_lengths(inputs), num_coming=num_coming)
            if 0 < num < len(part):
                inputs = self.family.preprocess(part[:num])
            prefixes += self._store(self.family.encode_inputs(inputs)) if num else []
            if num < len(part):
                break
        return prefixes

    def _store(self, encoded: Sequence[EncodedImage]) -> list[Prefix]:
        prefixes = [self.images.take(len(one.embeds), one.next_position) for one in encoded]
        for run in _runs([prefix.slot for prefix in prefixes]):
            slots, part = prefixes[run.start].slot, encoded[run.start : run.stop]
            embeds = pad_sequence([one.embeds for one in part], batch_first=True)
            positions = pad_sequence([one.positions.T for one in part], batch_first=True).permute(2, 0, 1)
            own = self.images.kv[:, :, slots : slots + len(part)]
            self.run(AttentionPass(None, own, [0] * len(part), length=embeds.shape[1]), embeds, positions)
        return prefixes

    @torch.inference_mode()
    def read(
        self,
        prefixes: Sequence[Prefix],
        texts: Sequence[Sequence[int]],
        befores: Sequence[Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Read token rows, each behind its image and then ``befores`` [layers, 2, kv heads, T, D].

        Returns the last hidden states [R, L, hidden], and the keys and values of the rows, what came
        before included, [layers, 2, R, kv heads, T + L, D]; both right padded.
        """
        before = [None] * len(texts) if befores is None else list(befores)
        starts = [0 if kv is None else kv.shape[3] for kv in before]
        tokens = pad_sequence([torch.tensor(row, dtype=torch.long) for row in texts], batch_first=True)
        own = self.new_kv(len(texts), max(starts) + tokens.shape[1])
        for i, kv in enumerate(before):
            if kv is not None:
                own[:, :, i, :, : kv.shape[3]] = kv
        device = self.family.device
        rows = AttentionPass(self.images.shared(prefixes), own, starts, length=tokens.shape[1])
        offsets = torch.tensor([prefix.next_position for prefix in prefixes], device=device)
        return self.append(rows, offsets, tokens.to(device)), own

    def append(self, rows: AttentionPass, offsets: Tensor, tokens: Tensor) -> Tensor:
        """Run tokens [R, L] whose rows' texts start at rotary position ``offsets`` [R]; the hidden states."""
        embeds = self.family.base.get_input_embeddings()(tokens)
        return self.run(rows, embeds, (offsets[:, None] + rows.columns).expand(3, -1, -1))

    def run(self, rows: AttentionPass, embeds: Tensor, positions: Tensor) -> Tensor:
        """Run inputs [R, L, hidden] at rotary positions [3, R, L]; the last hidden states."""
        out = self.language_model(
            inputs_embeds=embeds,
            position_ids=positions if self.family.has_position_axes else positions[0],
            attention_mask=no_mask(embeds.device),
            use_cache=False,
            rows=rows,
        )
        return out.last_hidden_state


def _runs(slots: Sequence[int]) -> list[range]:
    """Stretches of the sequence in which each number is one more than the one before."""
    cuts = [0, *(i for i in range(1, len(slots)) if slots[i] != slots[i - 1] + 1), len(slots)]
    return [range(a, b) for a, b in pairwise(cuts)]
