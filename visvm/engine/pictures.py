"""The keys and values of pictures, each stored once, within a budget."""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from visvm.engine.attention import Shared

ROUND = 64  # tokens; room for pictures a little longer than those seen so far
NewKV = Callable[[int, int], Tensor]


class Prefix:
    """A picture in the store; its place is free again once nothing refers to this object.

    ``length`` is its number of tokens, ``next_position`` the rotary position of what follows it.
    """

    def __init__(self, lane: int, length: int, next_position: int) -> None:
        self.lane, self.length, self.next_position = lane, length, next_position


class PictureStore:
    """Places for pictures in one buffer ``kv`` [layers, 2, places, kv heads, tokens, D].

    The buffer grows at need: at once if the old and the new one fit into ``budget`` bytes together, else
    when all places are free. So the budget is never exceeded, not even while it grows.
    """

    def __init__(self, new_kv: NewKV, *, max_pictures: int, budget: int | None = None) -> None:
        """``new_kv(places, tokens)`` makes a buffer of zeros."""
        self.new_kv, self.max_pictures, self.budget = new_kv, max_pictures, budget
        self.token_bytes = new_kv(1, 1).nbytes
        self.version = 0  # grows with the buffer: views of an older one keep it alive
        self._empty()

    @property
    def num_used(self) -> int:
        """Pictures in the store."""
        return len(self.lengths) - len(self.free)

    @property
    def num_free(self) -> int:
        """Pictures of the sizes seen so far that would fit now."""
        return self._most(max(self.kv.shape[4], 1)) - self.num_used

    def clear(self) -> None:
        """Give the buffer back, unless a picture is still in use."""
        if self.num_used == 0:
            self._empty()

    def reserve(self, lengths: Sequence[int], *, num_coming: int = 0) -> int:
        """Make room for the first of these pictures (tokens each): for how many there is now.

        A buffer that grows has places for those that come after them, too, if it may.

        Raises:
            ValueError: the first does not fit even into an empty store.
        """
        for num in range(len(lengths), 0, -1):
            if self._fit(num, max(lengths[:num]), num_coming):
                return num
        if self.num_used == 0:
            raise ValueError(
                f"the keys and values of a picture of {lengths[0]} tokens take"
                f" {lengths[0] * self.token_bytes / 2**20:.0f} MiB, more than the budget of"
                f" {(self.budget or 0) / 2**20:.0f} MiB: raise the budget"
            )
        return 0

    def take(self, length: int, next_position: int) -> Prefix:
        """A place for a picture of so many tokens, room for which was reserved."""
        lane = heapq.heappop(self.free)
        self.lengths[lane] = length
        prefix = Prefix(lane, length, next_position)
        weakref.finalize(prefix, heapq.heappush, self.free, lane).atexit = False
        return prefix

    def shared(self, prefixes: Sequence[Prefix]) -> Shared:
        """What rows read that stand behind these pictures, one row each."""
        lanes = [prefix.lane for prefix in prefixes]
        used = sorted(set(lanes))
        low, high = used[0], used[-1] + 1
        # A slice costs nothing, but attention over pictures that nobody asks for does.
        if high - low <= 2 * len(used):
            used, kv = list(range(low, high)), self.kv[:, :, low:high]
        else:
            kv = self.kv[:, :, used]
        lengths = torch.tensor([self.lengths[lane] for lane in used])
        longest = max(prefix.length for prefix in prefixes)
        places, width = _grid(lanes, used)
        hidden = (torch.arange(longest) >= lengths[:, None])[:, None, None]
        return Shared(
            kv[:, :, :, :, :longest],
            hidden.to(kv.device) if bool(hidden.any()) else None,
            None if places == list(range(len(used) * width)) else torch.tensor(places, device=kv.device),
            width,
        )

    def _most(self, length: int) -> int:
        """How many pictures of that length the store may hold."""
        if self.budget is None:
            return self.max_pictures
        return min(self.max_pictures, self.budget // (length * self.token_bytes))

    def _fit(self, num: int, length: int, num_coming: int) -> bool:
        """Whether ``num`` more pictures up to that length have room; grows the buffer if it may."""
        places, tokens = self.kv.shape[2], self.kv.shape[4]
        is_within = self.budget is None or self.kv.nbytes <= self.budget
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
        old, new = self.kv, new_places * new_tokens * self.token_bytes
        if self.budget is not None and old.nbytes + new > self.budget:
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
        self.kv[:, :, : old.shape[2], :, : old.shape[4]] = old
        self.lengths += [0] * (places - before)
        for lane in range(before, places):
            heapq.heappush(self.free, lane)


def _grid(lanes: Sequence[int], used: Sequence[int]) -> tuple[list[int], int]:
    """The place of each row in the grid [used, width], and the width."""
    index = {lane: i for i, lane in enumerate(used)}
    filled = [0] * len(used)
    columns = []
    for lane in lanes:
        columns.append(filled[index[lane]])
        filled[index[lane]] += 1
    width = max(filled)
    return [index[lane] * width + column for lane, column in zip(lanes, columns, strict=True)], width
