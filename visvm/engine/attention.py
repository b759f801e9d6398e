"""Attention of rows over shared images: each row sees its image's keys, stored once, and its own.

The scores of both are joined in one softmax, so the result equals plain attention over the
concatenated keys, while no image's key is ever copied for a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "visvm_rows"


@dataclass(frozen=True, eq=False)
class SharedPrefixKV:
    """Keys and values of N images, ``kv`` [layers, 2, N, kv heads, T, D], and the rows that read them.

    ``hidden`` [N, 1, 1, T] marks padding (None: there is none). Row r stands at ``places[r]`` of the grid
    [N, width] (None: the R = N * width rows stand in order).
    """

    kv: Tensor
    masked: Tensor | None
    places: Tensor | None
    width: int

    def to_grid(self, rows: Tensor) -> Tensor:
        """[R, ...] -> [N * width, ...]."""
        if self.places is None:
            return rows
        grid = rows.new_zeros(self.kv.shape[2] * self.width, *rows.shape[1:])
        grid[self.places] = rows
        return grid

    def to_rows(self, grid: Tensor) -> Tensor:
        """The inverse of ``to_grid``."""
        return grid if self.places is None else grid[self.places]


@dataclass(frozen=True, eq=False)
class AttentionPass:
    """One pass of R rows of L new tokens: what they share, and where their own keys and values go.

    ``own`` [layers, 2, R, kv heads, capacity, D] has room for them; row r holds ``starts[r]`` tokens
    so far. All of ``own`` is finite: hidden values are multiplied by 0.
    """

    shared: SharedPrefixKV | None
    own: Tensor
    starts: Sequence[int]
    length: int

    @cached_property
    def longest(self) -> int:
        """The most tokens that a row holds so far."""
        return max(self.starts)

    @cached_property
    def is_level(self) -> bool:
        """All rows hold as many."""
        return min(self.starts) == self.longest

    @property
    def is_first(self) -> bool:
        """Nothing is there before the new tokens."""
        return self.shared is None and self.longest == 0

    @cached_property
    def columns(self) -> Tensor:
        """[R, L]: where each new token goes."""
        starts = torch.tensor(self.starts, device=self.own.device)
        return starts[:, None] + torch.arange(self.length, device=self.own.device)

    @cached_property
    def masked(self) -> Tensor:
        """[R, 1, L, longest + L] marks the keys after each new token."""
        keys = torch.arange(self.longest + self.length, device=self.own.device)
        return (keys > self.columns[:, :, None])[:, None]

    @cached_property
    def rows(self) -> Tensor:
        """[R, 1]: the rows' numbers."""
        return torch.arange(self.own.shape[2], device=self.own.device)[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Append key, value [R, kv heads, L, D] to the rows' own; the output [R, heads, L, D]."""
        end = self.longest + self.length
        if self.is_level:
            self.own[layer, 0, :, :, self.longest : end] = key
            self.own[layer, 1, :, :, self.longest : end] = value
        else:
            self.own[layer, 0][self.rows, :, self.columns] = key.transpose(1, 2)
            self.own[layer, 1][self.rows, :, self.columns] = value.transpose(1, 2)
        own = self.own[layer, :, :, :, :end]
        if self.is_first:
            return F.scaled_dot_product_attention(
                query, own[0], own[1], is_causal=True, scale=scaling, enable_gqa=True
            )
        return self._joint(layer, query, own, scaling)

    def _joint(self, layer: int, query: Tensor, own: Tensor, scaling: float) -> Tensor:
        scores = _unfold(_scores(_fold(query, own[0]), own[0]), query)
        if not self.is_level or self.length > 1:
            scores = scores.masked_fill_(self.masked, float("-inf"))
        if self.shared is None:
            weights = scores.mul_(scaling).softmax(dim=-1).to(query.dtype)
            return _unfold(_fold(weights, own[1]) @ own[1], query)
        shared, kv = self.shared, self.shared.kv[layer]
        grid = shared.to_grid(query)
        above = _scores(_fold(grid, kv[0]), kv[0])
        if shared.masked is not None:
            above = above.masked_fill_(shared.masked, float("-inf"))
        # Joined where the many keys are, so that only the few scores beside them are moved.
        beside = _fold(shared.to_grid(scores), kv[0])
        weights = torch.cat([above, beside], dim=-1).mul_(scaling).softmax(dim=-1).to(query.dtype)
        above, beside = weights.split([kv.shape[3], own.shape[3]], dim=-1)
        out = shared.to_rows(_unfold(above @ kv[1], grid))
        weights = shared.to_rows(_unfold(beside, grid))
        return out + _unfold(_fold(weights, own[1]) @ own[1], query)


def _scores(folded: Tensor, key: Tensor) -> Tensor:
    """Float32 scores of folded queries against keys [N, kv heads, T, D]."""
    return (folded @ key.transpose(-1, -2)).float()


def _fold(rows: Tensor, level: Tensor) -> Tensor:
    """[N * width, heads, L, X] -> [N, kv heads, width * group * L, X]: one matrix a key head."""
    num, kv_heads = level.shape[:2]
    width, group, length, last = rows.shape[0] // num, rows.shape[1] // kv_heads, *rows.shape[2:]
    rows = rows.reshape(num, width, kv_heads, group, length, last).transpose(1, 2)
    return rows.reshape(num, kv_heads, width * group * length, last)


def _unfold(folded: Tensor, query: Tensor) -> Tensor:
    """The inverse of ``_fold``: back to [R, heads, L, X]."""
    num, kv_heads, _, last = folded.shape
    rows, heads, length = query.shape[:3]
    folded = folded.reshape(num, kv_heads, rows // num, heads // kv_heads, length, last)
    return folded.transpose(1, 2).reshape(rows, heads, length, last)


class Attend(Protocol):
    """How the rows of a pass see each other, where it is not by a mask."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """The output [R, heads, L, D] of a layer."""
        ...


def row_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """A transformers attention function: by ``rows`` where they are given.

    Else flex attention for a block mask, and plain SDPA for any other.
    """
    rows: Attend | None = kwargs.pop("rows", None)
    if isinstance(attention_mask, BlockMask):
        out, _ = flex_attention_forward(module, query, key, value, attention_mask, scaling=kwargs["scaling"])
        return out, None
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = rows.attend(int(module.layer_idx), query, key, value, kwargs["scaling"])  # type: ignore[arg-type]
    return out.transpose(1, 2).contiguous(), None


def use_row_attention(model: Any) -> None:
    """Let the language model of ``model`` accept ``rows``; without them it computes as before."""
    AttentionInterface.register(NAME, row_attention)
    # Without a mask function of the same name, transformers silently drops padding masks.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})


def no_mask(device: torch.device) -> Tensor:
    """What ``rows`` take for a mask: one of four dimensions keeps transformers from building its own."""
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
