"""Attention of rows over shared images: each row sees its image's keys, stored once, and its own.

    places     0 ............ P-1 | P ........ P+S-1 | P+S ....... P+S+L-1
    row r      image's tokens     | text so far      | new tokens
    stored in  SharedPrefixKV     | AttentionPass.own (one buffer, by row)

The scores of both parts are joined in one softmax, so the result equals plain attention over the
concatenated keys, while no image's key is ever copied for a row.

Shape suffixes: R rows, N images, L new tokens, T keys, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from visvm.engine.kv import KV

NAME = "visvm_rows"
NOT_HONOURED = ("s_aux", "position_bias")  # attention sinks; biases by distance
Record = Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], None]
_record: ContextVar[Record | None] = ContextVar("visvm_record", default=None)


@dataclass(frozen=True)
class Scoring:
    """How a layer's scores become weights: scaled, capped by tanh, and hidden beyond a window of places."""

    scaling: float
    window: int | None = None
    softcap: float | None = None

    def capped(self, scores: Tensor) -> Tensor:
        """Return raw scores whose scaled size stays below ``softcap``."""
        if self.softcap is None:
            return scores
        return (scores * (self.scaling / self.softcap)).tanh() * (self.softcap / self.scaling)


@dataclass(frozen=True, eq=False)
class SharedPrefixKV:
    """Keys and values of N images, and the rows that read them.

    ``masked`` [N, 1, 1, T] marks padding (None: there is none). Row r stands at ``places[r]`` of the grid
    [N, width] (None: the R = N * width rows stand in order), behind ``lengths[r]`` tokens. ``sources``
    [N * width] is the row at each place, 0 where there is none.
    """

    kv: KV
    masked: Tensor | None
    places: Tensor | None
    sources: Tensor | None
    width: int
    lengths: Sequence[int] | Tensor

    def to_grid(self, rows: Tensor) -> Tensor:
        """[R, ...] -> [N * width, ...]; a place without a row repeats the first."""
        return rows if self.sources is None else rows[self.sources]

    def to_rows(self, grid: Tensor) -> Tensor:
        """The inverse of ``to_grid``."""
        return grid if self.places is None else grid[self.places]


@dataclass(frozen=True, eq=False)
class OwnKV:
    """The rows' own keys and values [2, R, kv heads, T, D] in a layer."""

    kv: Tensor

    def scores(self, query: Tensor) -> Tensor:
        """Return raw scores [R, heads, L, T]."""
        return _unfold(_scores(_fold(query, self.kv[0]), self.kv[0]), query)

    def output(self, weights: Tensor, query: Tensor) -> Tensor:
        """Return the sum [R, heads, L, D] of the values by their weights [R, heads, L, T]."""
        return _unfold(_fold(weights, self.kv[1]) @ self.kv[1], query)


@dataclass(frozen=True, eq=False)
class AttentionPass:
    """One pass of R rows of L new tokens: what they share, and where their own keys and values go.

    ``own`` has room for them; row r holds ``starts[r]`` tokens so far. All of ``own`` is finite: hidden
    values are multiplied by 0.
    """

    shared: SharedPrefixKV
    own: KV
    starts: Any  # a sequence of ints; a tensor in ``static_step``
    length: int
    _masks: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)

    @cached_property
    def longest(self) -> int:
        """The most tokens that a row holds so far."""
        return max(self.starts)

    @property
    def num_keys(self) -> int:
        """How many of a row's own places are read."""
        return self.longest + self.length

    @cached_property
    def is_level(self) -> bool:
        """Whether all rows hold as many."""
        return min(self.starts) == self.longest

    @cached_property
    def last_place(self) -> int:
        """The last place of the longest row, counted from its image's first token."""
        return max(map(sum, zip(self.shared.lengths, self.starts, strict=True))) + self.length - 1

    @cached_property
    def columns(self) -> Tensor:
        """[R, L]: where each new token goes."""
        starts = torch.tensor(self.starts, device=self.own.groups[0].device)
        return starts[:, None] + torch.arange(self.length, device=starts.device)

    @cached_property
    def rows(self) -> Tensor:
        """[R, 1]: the rows' numbers."""
        return torch.arange(self.own.num_rows, device=self.own.groups[0].device)[:, None]

    def masked_own(self, window: int | None) -> Tensor | None:
        """[R, 1, L, T] marks the rows' own keys after each new token, or before its window."""
        is_windowed = window is not None and self.num_keys > window
        if self.is_level and self.length == 1 and not is_windowed:
            return None
        return self._kept("own", window if is_windowed else None, self._masked_own)

    def _masked_own(self, window: int | None) -> Tensor:
        keys = torch.arange(self.num_keys, device=self.columns.device)
        masked = keys > self.columns[:, :, None]
        if window is not None:
            masked |= keys <= self.columns[:, :, None] - window
        return masked[:, None]

    def masked_image(self, window: int | None) -> Tensor | None:
        """[N, 1, width, 1, L, T] marks the image's keys before each new token's window."""
        if window is None or self.last_place < window:
            return None
        return self._kept("image", window, self._masked_image)

    def _masked_image(self, window: int) -> Tensor:
        lengths = torch.as_tensor(self.shared.lengths, device=self.columns.device)
        keys = torch.arange(self.shared.kv.num_tokens, device=self.columns.device)
        masked = keys <= (lengths[:, None] + self.columns - window)[:, :, None]
        grid = self.shared.to_grid(masked)
        return grid.unflatten(0, (-1, self.shared.width))[:, None, :, None]

    def _kept(self, part: str, window: Any, make: Callable[[Any], Tensor]) -> Tensor:
        """Return a mask that is the same in all layers with this window."""
        if (part, window) not in self._masks:
            self._masks[part, window] = make(window)
        return self._masks[part, window]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        """Append key, value [R, kv heads, L, D] to the rows' own; return the output [R, heads, L, D]."""
        layer: int = module.layer_idx  # type: ignore[assignment]
        end, own = self.num_keys, self.own.layer(layer)
        if self.is_level:
            own[0, :, :, self.longest : end] = key
            own[1, :, :, self.longest : end] = value
        else:
            own[0][self.rows, :, self.columns] = key.transpose(1, 2)
            own[1][self.rows, :, self.columns] = value.transpose(1, 2)
        return self.joint(self.shared.kv.layer(layer), query, OwnKV(own[:, :, :, :end]), how)

    def joint(self, kv: Tensor, query: Tensor, own: OwnKV, how: Scoring) -> Tensor:
        """Return the output of attention over the images' ``kv`` and the rows' own, by one softmax."""
        shared = self.shared
        scores = how.capped(own.scores(query))
        if (masked := self.masked_own(how.window)) is not None:
            scores = scores.masked_fill_(masked, float("-inf"))
        grid = shared.to_grid(query)
        above = how.capped(_scores(_fold(grid, kv[0]), kv[0]))
        if shared.masked is not None:
            above = above.masked_fill_(shared.masked, float("-inf"))
        if (masked := self.masked_image(how.window)) is not None:
            by_row = above.unflatten(2, (shared.width, -1, self.length))
            above = by_row.masked_fill_(masked, float("-inf")).flatten(2, 4)
        # Joined where the many keys are, so that only the few scores beside them are moved.
        beside = _fold(shared.to_grid(scores), kv[0])
        weights = torch.cat([above, beside], dim=-1).mul_(how.scaling).softmax(dim=-1).to(query.dtype)
        above, beside = weights.split([kv.shape[3], scores.shape[-1]], dim=-1)
        out = shared.to_rows(_unfold(above @ kv[1], grid))
        weights = shared.to_rows(_unfold(beside, grid))
        return out + own.output(weights, query)


def _scores(folded: Tensor, key: Tensor) -> Tensor:
    """Return float32 scores of folded queries against keys [N, kv heads, T, D], never rounded to less."""
    if folded.dtype not in (torch.bfloat16, torch.float16):
        return folded @ key.transpose(-1, -2)
    if folded.is_cuda:
        flat = torch.bmm(folded.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), out_dtype=torch.float32)
        return flat.unflatten(0, folded.shape[:2])
    return folded.float() @ key.float().transpose(-1, -2)


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

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        """Return the output [R, heads, L, D] of the layer ``module``."""
        ...


def row_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """A transformers attention function: by ``rows`` where they are given, else plain, and recorded.

    Raises:
        ValueError: the model asks for something that this function cannot do.
    """
    rows: Attend | None = kwargs.pop("rows", None)
    if refused := [name for name in NOT_HONOURED if kwargs.get(name) is not None]:
        raise ValueError(f"{type(module).__name__} needs {refused[0]!r} in attention, which is not supported")
    scaling = kwargs.get("scaling")
    how = Scoring(
        query.shape[-1] ** -0.5 if scaling is None else scaling,
        kwargs.get("sliding_window"),
        kwargs.get("softcap"),
    )
    if rows is not None:
        return rows.attend(module, query, key, value, how).transpose(1, 2).contiguous(), None
    if (record := _record.get()) is not None:
        record(module, key, value, kwargs)
    if how.softcap is not None:
        return plain_attention(query, key, value, attention_mask, how).transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, how: Scoring) -> Tensor:
    """Return the output [R, heads, L, D] under a mask of what is seen (None: all before)."""
    if how.softcap is None:
        is_causal = mask is None
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, scale=how.scaling, enable_gqa=True
        )
    scores = how.capped(_unfold(_scores(_fold(query, key), key), query)) * how.scaling
    if mask is None:
        length, num_keys = scores.shape[-2:]
        mask = torch.ones(length, num_keys, dtype=torch.bool, device=scores.device).tril(num_keys - length)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).to(query.dtype)
    return _unfold(_fold(weights, value) @ value, query)


@contextmanager
def recording(record: Record) -> Iterator[None]:
    """Call ``record`` with the keys and values of each layer of a language model that runs meanwhile."""
    token = _record.set(record)
    try:
        yield
    finally:
        _record.reset(token)


def use_row_attention(model: Any) -> None:
    """Let the language model of ``model`` accept ``rows``; without them it computes as before."""
    AttentionInterface.register(NAME, row_attention)
    # Without a mask function of the same name, transformers silently drops padding masks.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})
