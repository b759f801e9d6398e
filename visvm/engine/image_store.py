"""The keys and values of images, each stored once, within a budget."""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visvm.engine.attention import SharedPrefixKV
from visvm.engine.kv import KV
from visvm.engine.row_state import Tensors

ROUND = 64  # tokens; room for images a little longer than those seen so far
NewKV = Callable[[int, int], KV]


class Prefix:
    """An image in the store; its place is free again once nothing refers to this object.

    ``length`` is its number of tokens, ``next_position`` the rotary position of what follows it, ``state``
    [hidden] the last hidden state of its last token, and ``row_states`` what layers without attention keep;
    all are known once it was read.
    """

    next_position: int
    state: Tensor
    row_states: Tensors

    def __init__(self, slot: int, length: int) -> None:
        self.slot, self.length = slot, length


class ImageStore:
    """Places for images: the rows of one buffer ``kv``.

    The buffer grows at need: at once if the old and the new one fit into ``budget`` bytes together, else
    when all places are free. So the budget is never exceeded, not even while it grows.
    """

    def __init__(self, new_kv: NewKV, *, max_images: int, budget: int | None = None) -> None:
        """``new_kv(places, tokens)`` makes a buffer of zeros."""
        self.new_kv, self.max_images, self.budget = new_kv, max_images, budget
        one = new_kv(1, 1)
        self.token_bytes, self.state_bytes = one.nbytes, one.layout.state_bytes
        self.version = 0  # grows with the buffer: views of an older one keep it alive
        self._empty()

    @property
    def num_used(self) -> int:
        """Images in the store."""
        return len(self.lengths) - len(self.free)

    @property
    def num_free(self) -> int:
        """Images of the sizes seen so far that would fit now."""
        return self._most(max(self.kv.num_tokens, 1)) - self.num_used

    def clear(self) -> None:
        """Give the buffer back, unless an image is still in use."""
        if self.num_used == 0:
            self._empty()

    def reserve(self, lengths: Sequence[int], *, num_coming: int = 0) -> int:
        """Make room for the first of these images (tokens each): for how many there is now.

        A buffer that grows has places for those that come after them, too, if it may.

        Raises:
            ValueError: the first does not fit even into an empty store.
        """
        for num in range(len(lengths), 0, -1):
            if self._fit(num, max(lengths[:num]), num_coming):
                return num
        if self.num_used == 0:
            raise ValueError(
                f"the keys and values of an image of {lengths[0]} tokens take"
                f" {self._bytes(1, lengths[0]) / 2**20:.0f} MiB, more than the budget of"
                f" {(self.budget or 0) / 2**20:.0f} MiB: raise the budget"
            )
        return 0

    def take(self, length: int) -> Prefix:
        """A place for an image of so many tokens, room for which was reserved."""
        slot = heapq.heappop(self.free)
        self.lengths[slot] = length
        prefix = Prefix(slot, length)
        weakref.finalize(prefix, heapq.heappush, self.free, slot).atexit = False
        return prefix

    def shared(self, prefixes: Sequence[Prefix], *, is_static: bool = False) -> SharedPrefixKV:
        """Return what rows read that stand behind these images, one row each.

        With ``is_static`` it is the whole store, so that shapes and addresses are the same at each call.
        """
        slots = [prefix.slot for prefix in prefixes]
        used, longest = sorted(set(slots)), max(prefix.length for prefix in prefixes)
        low, high = used[0], used[-1] + 1
        if is_static:
            low, high, longest = 0, self.kv.num_rows, self.kv.num_tokens
        # A slice costs nothing, but attention over images that nobody asks for does.
        if is_static or high - low <= 2 * len(used):
            used, kv = list(range(low, high)), self.kv.rows(slice(low, high))
        else:
            kv = self.kv.rows(used)
        lengths = torch.tensor([self.lengths[slot] for slot in used])
        masked = (torch.arange(longest) >= lengths[:, None])[:, None, None]
        places, sources, width = _grid(slots, used, is_rounded=is_static)
        in_order = places == list(range(len(sources))) and not is_static
        device = kv.groups[0].device
        return SharedPrefixKV(
            kv.tokens(0, longest),
            masked.to(device) if is_static or bool(masked.any()) else None,
            None if in_order else torch.tensor(places, device=device),
            None if in_order else torch.tensor(sources, device=device),
            width,
            [prefix.length for prefix in prefixes],
        )

    def _most(self, length: int) -> int:
        """How many images of that length the store may hold."""
        if self.budget is None:
            return self.max_images
        return min(self.max_images, self.budget // self._bytes(1, length))

    def _bytes(self, places: int, tokens: int) -> int:
        """What so many places take, the states of the layers without attention included."""
        return places * (tokens * self.token_bytes + self.state_bytes)

    def _fit(self, num: int, length: int, num_coming: int) -> bool:
        """Whether ``num`` more images up to that length have room; grows the buffer if it may."""
        places, tokens = self.kv.num_rows, self.kv.num_tokens
        is_within = self.budget is None or self._bytes(places, tokens) <= self.budget
        if num <= len(self.free) and length <= tokens and is_within:
            return True
        new_tokens = max(tokens, -(-length // ROUND) * ROUND)
        most = self._most(new_tokens)
        if self.num_used + num > most:
            return False
        # Within a budget it grows by steps: a store that takes all of it leaves no room for prompts.
        wanted = self.num_used + num + (num_coming if self.budget is None else 0)
        new_places = min(most, max(places, wanted, 2 * places if self.num_used else 0))
        if self.num_used == 0:
            self._empty()  # the old one goes before the new one comes
        needed = self.kv.nbytes + self._bytes(new_places, new_tokens)
        if self.budget is not None and needed > self.budget:
            return False
        self._grow(new_places, new_tokens)
        return True

    def _empty(self) -> None:
        self.kv = self.new_kv(0, 0)
        self.lengths: list[int] = []
        self.free: list[int] = []

    def _grow(self, places: int, tokens: int) -> None:
        old, before = self.kv, len(self.lengths)
        self.kv = self.new_kv(places, tokens)
        self.version += 1
        self.kv.put(0, old)
        self.lengths += [0] * (places - before)
        for slot in range(before, places):
            heapq.heappush(self.free, slot)


def _grid(slots: Sequence[int], used: Sequence[int], *, is_rounded: bool) -> tuple[list[int], list[int], int]:
    """The place of each row in the grid [used, width], the row at each place (else 0), and the width.

    With ``is_rounded`` the width is a power of two.
    """
    index = {slot: i for i, slot in enumerate(used)}
    filled = [0] * len(used)
    columns = []
    for slot in slots:
        columns.append(filled[index[slot]])
        filled[index[slot]] += 1
    width = 1 << (max(filled) - 1).bit_length() if is_rounded else max(filled)
    places = [index[slot] * width + column for slot, column in zip(slots, columns, strict=True)]
    sources = [0] * (len(used) * width)
    for row, place in enumerate(places):
        sources[place] = row
    return places, sources, width
