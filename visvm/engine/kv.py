"""Keys and values of rows of tokens, for models whose layers may differ in heads and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visvm.engine.row_state import Tensors, rows_of


@dataclass(frozen=True)
class Layout:
    """Where each layer's keys and values are stored.

    Layers of one shape share a buffer: ``sizes[g]`` is (layers, kv heads, D) of group g, and ``places[i]``
    is (group, index in it) of layer i. Layers that reuse the keys of another have its place; layers without
    attention have none, but the states that ``state_bytes`` counts for each row.
    """

    places: Mapping[int, tuple[int, int]]
    sizes: tuple[tuple[int, int, int], ...]
    state_bytes: int = 0

    @classmethod
    def of(cls, keys: Mapping[int, Tensor], *, state_bytes: int = 0) -> Layout:
        """Return the layout for layers with these keys [..., kv heads, L, D]; a repeated tensor is shared."""
        places: dict[int, tuple[int, int]] = {}
        counts: dict[tuple[int, int], int] = {}
        for layer, key in sorted(keys.items()):
            shape = key.shape[-3], key.shape[-1]
            source = next((other for other in places if keys[other] is key), None)
            if source is None:
                counts[shape] = counts.get(shape, 0) + 1
                places[layer] = list(counts).index(shape), counts[shape] - 1
            else:
                places[layer] = places[source]
        return cls(places, tuple((count, *shape) for shape, count in counts.items()), state_bytes)

    @property
    def token_values(self) -> int:
        """Numbers kept for a token, over all layers."""
        return sum(2 * layers * heads * size for layers, heads, size in self.sizes)

    def zeros(self, rows: int, tokens: int, *, like: Tensor) -> KV:
        """Return room for ``tokens`` tokens in each of ``rows`` rows, of the type and device of ``like``."""
        return KV(
            self,
            tuple(
                torch.zeros(layers, 2, rows, heads, tokens, size, dtype=like.dtype, device=like.device)
                for layers, heads, size in self.sizes
            ),
        )


@dataclass(frozen=True, eq=False)
class KV:
    """Keys and values of R rows of T tokens: one tensor [layers, 2, R, kv heads, T, D] a group of layers.

    ``states`` are those of the layers without attention after each row's last token, where they are known.
    """

    layout: Layout
    groups: tuple[Tensor, ...]
    states: Tensors | None = None

    @property
    def num_rows(self) -> int:
        return self.groups[0].shape[2]

    @property
    def num_tokens(self) -> int:
        return self.groups[0].shape[4]

    @property
    def nbytes(self) -> int:
        return sum(group.nbytes for group in self.groups)

    def layer(self, index: int) -> Tensor:
        """Return the keys and values of one layer, a view [2, R, kv heads, T, D]."""
        group, place = self.layout.places[index]
        return self.groups[group][place]

    def map(self, change: Callable[[Tensor], Tensor]) -> KV:
        """Return the result of ``change`` for every group."""
        return KV(self.layout, tuple(change(group) for group in self.groups))

    def rows(self, rows: slice | list[int]) -> KV:
        """Return some rows: a view for a slice, a copy for a list."""
        return self.map(lambda group: group[:, :, rows])

    def tokens(self, start: int, end: int) -> KV:
        """Return the tokens from ``start`` to ``end`` of all rows, a view."""
        return self.map(lambda group: group[:, :, :, :, start:end])

    def row(self, row: int, start: int, end: int) -> KV:
        """Return a copy of one row's tokens from ``start`` to ``end``, with the states at its last token."""
        kv = self.map(lambda group: group[:, :, row : row + 1, :, start:end].clone())
        return kv if self.states is None else replace(kv, states=rows_of(self.states, [row]))

    def put(self, row: int, other: KV) -> None:
        """Write ``other`` to the rows from ``row`` on, at their first tokens."""
        for group, new in zip(self.groups, other.groups, strict=True):
            group[:, :, row : row + new.shape[2], :, : new.shape[4]] = new

    def followed_by(self, other: KV) -> KV:
        """Return these tokens and then those of ``other``, row by row."""
        pairs = zip(self.groups, other.groups, strict=True)
        return KV(self.layout, tuple(torch.cat(pair, dim=4) for pair in pairs))
