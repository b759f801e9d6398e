"""One decoding step of fixed shapes, compiled as one graph.

It runs on the whole buffers: all images of the store and all tokens of a row, with starts, lengths and masks
as tensors on the device. So nothing depends on a Python number of the step, shapes change only where buffers
grow, rows double or an image gets more rows, and the graph can be a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visvm.engine.attention import AttentionPass, OwnKV, Scoring, SharedPrefixKV
from visvm.engine.kv import KV

if TYPE_CHECKING:
    from visvm.families import Family

MOST_GRAPHS = 64  # of all models of a process: torch counts them together


@dataclass(frozen=True, eq=False)
class StaticOwnKV(OwnKV):
    """Own keys and values, of which those of the new tokens stand beside the buffer.

    A graph that wrote to the buffer would copy it. ``is_new`` [R, 1, 1, T] marks where they belong.
    """

    new: OwnKV
    is_new: Tensor

    def scores(self, query: Tensor) -> Tensor:
        """Return raw scores [R, heads, 1, T]."""
        return torch.where(self.is_new, self.new.scores(query), super().scores(query))

    def output(self, weights: Tensor, query: Tensor) -> Tensor:
        """Return the sum [R, heads, 1, D] of the values by their weights [R, heads, 1, T]."""
        new = weights.where(self.is_new, 0).sum(dim=-1, keepdim=True)
        old = weights.masked_fill(self.is_new, 0)
        return super().output(old, query) + self.new.output(new, query)


@dataclass(frozen=True, eq=False)
class StaticPass(AttentionPass):
    """A pass of one token a row whose ``starts`` [R], and lengths [R] behind images, are tensors.

    ``new`` are the keys and values of the tokens, by their place in the layout.
    """

    new: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def columns(self) -> Tensor:  # type: ignore[override]
        """[R, 1]: where each new token goes."""
        return self.starts[:, None]

    @property
    def num_keys(self) -> int:
        """All own places are read."""
        return self.own.num_tokens

    def masked_own(self, window: int | None) -> Tensor:
        """[R, 1, 1, T] marks the rows' own keys after each new token, or before its window."""
        return self._kept("own", window, self._masked_own)

    def masked_image(self, window: int | None) -> Tensor | None:
        """[N, 1, width, 1, 1, T] marks the image's keys before each new token's window."""
        return None if window is None else self._kept("image", window, self._masked_image)

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        """Keep key, value [R, kv heads, 1, D] in ``new``; return the output [R, heads, 1, D]."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        new = self.new[self.own.layout.places[layer]] = torch.stack([key, value])
        is_new = torch.arange(self.num_keys, device=self.starts.device) == self.columns[:, :, None, None]
        own = StaticOwnKV(self.own.layer(layer), OwnKV(new), is_new)
        return self.joint(self.shared.kv.layer(layer), query, own, how)


class StaticStep:
    """Runs a family's language model on one token of every row, compiled at the first call of a shape."""

    def __init__(self, family: Family, **options: Any) -> None:
        """``options`` are those of ``torch.compile``, such as ``backend``.

        Raises:
            ValueError: the model has layers that keep a state for each row.
        """
        if family.has_states:
            raise ValueError("compile: not for models that keep a state for each row (linear attention)")
        self.family = family
        if family.device.type == "cuda":
            options = {"mode": "reduce-overhead", **options}
        self._compiled = torch.compile(self._run, fullgraph=True, dynamic=False, **options)

    def __call__(self, shared: SharedPrefixKV, own: KV, rows: tuple[Sequence[int], ...]) -> Tensor:
        """Append a token to the first rows of the buffer ``own``; return the last hidden states [R, hidden].

        ``rows`` are the tokens, the tokens before them and the rotary positions where texts start, [R] each.
        """
        num, device = len(rows[0]), self.family.device
        own = own.rows(slice(1 << (num - 1).bit_length()))
        padded = [
            F.pad(torch.as_tensor(one, device=device), (0, own.num_rows - num))
            for one in (*rows, shared.lengths, shared.places)
        ]
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
            hidden, new = self._compiled(padded, shared, own)
        for group, tokens in zip(own.groups, new, strict=True):  # [R, layers, 2, kv heads, D]
            group[:, :, torch.arange(own.num_rows, device=device), :, padded[1]] = tokens
        return hidden[:num].clone()  # the next CUDA graph writes where this one did

    def _run(
        self, rows: Sequence[Tensor], shared: SharedPrefixKV, own: KV
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        tokens, starts, offsets, lengths, places = rows
        given = self.family.text_inputs(tokens[:, None], (offsets + starts)[:, None])
        images = SharedPrefixKV(shared.kv, shared.masked, places, shared.sources, shared.width, lengths)
        step = StaticPass(images, own, starts, length=1)
        hidden = self.family.language_model(**given, use_cache=False, rows=step).last_hidden_state[:, 0]
        sizes = enumerate(own.layout.sizes)
        new = [torch.stack([step.new[group, i] for i in range(size[0])]) for group, size in sizes]
        return hidden, tuple(one[:, :, :, :, 0].permute(2, 0, 1, 3, 4) for one in new)
