"""Rows that write: continuations that come and go one by one, and grow together a token at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visvm.engine.attention import AttentionPass, SharedPrefixKV
from visvm.engine.engine import Engine
from visvm.engine.image_store import ROUND, Prefix
from visvm.engine.kv import KV
from visvm.engine.row_state import RowStates, Tensors, joined, rows_of


class SequenceBatch:
    """At most ``max_rows`` rows in one buffer, of which the first ``len(self)`` are in use.

    The buffer grows with the rows; with ``is_fixed`` it has all ``max_rows`` from the first, and a row that
    needs longer ones has to wait until all are free: so there are never two buffers.
    """

    def __init__(self, engine: Engine, *, max_rows: int, is_fixed: bool = False) -> None:
        self.engine, self.max_rows, self.is_fixed = engine, max_rows, is_fixed
        self.kv = engine.new_kv(0, 0)
        self.prefixes: list[Prefix] = []
        self.lengths: list[int] = []
        self.states: Tensors = {}
        self._shared: SharedPrefixKV | None = None
        self._version = -1

    def __len__(self) -> int:
        return len(self.prefixes)

    def has_room(self, capacity: int) -> bool:
        """Whether a row of up to ``capacity`` tokens may be added now."""
        waits = self.is_fixed and len(self) > 0 and capacity > self.kv.num_tokens
        return len(self) < self.max_rows and not waits

    def most_bytes(self, capacity: int) -> int:
        """What the buffer takes once it has all rows, of at least ``capacity`` tokens."""
        tokens = max(self.kv.num_tokens, _rounded(capacity))
        store = self.engine.images
        return self.max_rows * (tokens * store.token_bytes + store.state_bytes)

    @torch.inference_mode()
    def add(self, prefix: Prefix, text: KV, *, capacity: int) -> None:
        """Add a row behind an image and the keys and values of a text (one row).

        It may grow to ``capacity`` tokens, the text's included.
        """
        assert self.has_room(capacity), "no row is free"
        self._make_room(len(self) + 1, capacity)
        self.kv.put(len(self), text)
        new = self.engine.states_of([prefix], [text])
        self.states = joined([self.states, new]) if self.states else new
        self.prefixes.append(prefix)
        self.lengths.append(text.num_tokens)
        self._shared = None

    @torch.inference_mode()
    def drop(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = len(self) - 1
        if row != last:
            length = self.lengths[last]
            self.kv.put(row, self.kv.rows(slice(last, last + 1)).tokens(0, length))
            self.prefixes[row], self.lengths[row] = self.prefixes[last], length
        kept = [last if i == row else i for i in range(last)]
        self.states = rows_of(self.states, kept) if kept else {}
        self.prefixes.pop()
        self.lengths.pop()
        self._shared = None
        if not self.prefixes and not self.is_fixed:
            self.clear()  # else one long prompt would keep its memory for good

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to every row; their last hidden states [R, hidden]."""
        images, static = self.engine.images, self.engine.static_step
        if self._shared is None or self._version != images.version:
            self._shared = images.shared(self.prefixes, is_static=static is not None)
            self._version = images.version
        offsets = [prefix.next_position for prefix in self.prefixes]
        if static is not None:
            hidden = static(self._shared, self.kv, (tokens, self.lengths, offsets))
        else:
            hidden = self._append(self._shared, tokens, offsets)
        self.lengths = [length + 1 for length in self.lengths]
        return hidden

    def _append(self, shared: SharedPrefixKV, tokens: Sequence[int], offsets: Sequence[int]) -> Tensor:
        device = self.engine.family.device
        rows = AttentionPass(shared, self.kv.rows(slice(len(self))), self.lengths, length=1)
        states, column = RowStates(self.states), torch.tensor(tokens, device=device)[:, None]
        hidden = self.engine.append(rows, torch.tensor(offsets, device=device), column, states)
        self.states = states.after
        return hidden[:, 0]

    def text(self, row: int, start: int, end: int) -> KV:
        """Return a copy of the keys and values of a row's tokens ``start`` to ``end``."""
        return self.kv.row(row, start, end)

    def clear(self) -> None:
        """Drop all rows, and give the buffer back."""
        self.prefixes, self.lengths, self.states, self._shared = [], [], {}, None
        self.kv = self.engine.new_kv(0, 0)

    def _make_room(self, num: int, tokens: int) -> None:
        rows, capacity = self.kv.num_rows, self.kv.num_tokens
        if num <= rows and tokens <= capacity:
            return
        if num == 1:
            self.kv = self.engine.new_kv(0, 0)  # the old one goes before the new one comes
        old = self.kv
        wanted = self.max_rows if self.is_fixed else min(self.max_rows, max(num, rows, 2 * old.num_rows))
        self.kv = self.engine.new_kv(wanted, max(capacity, _rounded(tokens)))
        self.kv.put(0, old)


def _rounded(tokens: int) -> int:
    return -(-tokens // ROUND) * ROUND
