"""Prefill pictures once; fork any number of continuations off them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visvm.engine.attention import Level, Tree, use_tree_attention
from visvm.families import Family
from visvm.records import Picture


@dataclass(frozen=True, eq=False)
class Block:
    """The keys and values of a run of tokens: ``kv`` [layers, 2, kv heads, T, D].

    ``next_position`` is the rotary position of the token that follows.
    """

    kv: Tensor
    next_position: int

    def followed_by(self, other: Block) -> Block:
        """Both runs as one."""
        return Block(torch.cat([self.kv, other.kv], dim=3), other.next_position)


class Engine:
    """A family's language model over shared prefixes. Inference only; exact for any batch."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.language_model: Any = family.base.language_model
        use_tree_attention(family.base)
        self._stacked: tuple[tuple[int, ...], list[Block], Level] | None = None

    @torch.inference_mode()
    def prefill(self, pictures: Sequence[Picture]) -> list[Block]:
        """Encode each picture once: the template's head and the image tokens."""
        encoded = self.family.encode(pictures)
        embeds = torch.nn.utils.rnn.pad_sequence([one.embeds for one in encoded], batch_first=True)
        positions = torch.nn.utils.rnn.pad_sequence([one.positions.T for one in encoded], batch_first=True)
        tree = self.new_tree([], rows=len(encoded), capacity=embeds.shape[1])
        self.run(tree, embeds, positions.permute(2, 0, 1))
        return [
            Block(tree.leaves[:, :, i, :, : len(one.embeds)].clone(), one.next_position)
            for i, one in enumerate(encoded)
        ]

    def fork(self, prefixes: Sequence[Block], suffixes: Sequence[Block | None], *, width: int) -> Fork:
        """``width`` continuations of each (prefix, suffix) branch.

        Branches that share a prefix object share its keys and values.
        """
        return Fork(self, prefixes, suffixes, width=width)

    def stack_prefixes(self, prefixes: list[Block]) -> Level:
        """The prefixes as one level, kept for the next call with the same ones."""
        key = tuple(id(prefix) for prefix in prefixes)
        if self._stacked is None or self._stacked[0] != key:
            self._stacked = (key, prefixes, stack([prefix.kv for prefix in prefixes]))
        return self._stacked[2]

    def new_tree(self, parents: list[Level], *, rows: int, capacity: int = 32) -> Tree:
        """A tree with ``rows`` leaves, and room for ``capacity`` tokens in each to begin with."""
        config, weight = self.family.text_config, self.family.base.get_input_embeddings().weight
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, rows, config.num_key_value_heads, capacity, dim)
        return Tree(parents, weight.new_empty(shape, requires_grad=False))

    def run(self, tree: Tree, embeds: Tensor, positions: Tensor) -> Tensor:
        """Append [R, L, hidden] inputs at positions [3, R, L] to the tree; the last hidden states."""
        tree.make_room(embeds.shape[1])
        # A 4-D mask is passed through unread: it keeps transformers from building its own.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeds.device)
        out = self.language_model(
            inputs_embeds=embeds,
            position_ids=positions if self.family.has_position_axes else positions[0],
            attention_mask=mask,
            use_cache=False,
            tree=tree,
        )
        tree.length += embeds.shape[1]
        return out.last_hidden_state


class Fork:
    """Continuations in progress: rows that grow together, each off one (prefix, suffix) branch.

    Rows live in a grid [prefixes, branches, width], padded where branches differ in number; ``places``
    maps a row to its place, so callers see a flat list of rows.
    """

    def __init__(
        self, engine: Engine, prefixes: Sequence[Block], suffixes: Sequence[Block | None], *, width: int
    ) -> None:
        self.engine = engine
        self.prefixes, self.suffixes = prefixes, suffixes
        self.rows = [branch for branch in range(len(prefixes)) for _ in range(width)]
        levels = self._lay_out()
        self.tree = engine.new_tree(levels, rows=self.num_places)

    def _lay_out(self) -> list[Level]:
        """Place ``self.rows`` in a grid as narrow as they allow; the parent levels of that grid."""
        groups: dict[int, list[int]] = {}
        for branch in dict.fromkeys(self.rows):
            groups.setdefault(id(self.prefixes[branch]), []).append(branch)
        fan = max(len(members) for members in groups.values())
        width = max(Counter(self.rows).values())
        slots = {
            branch: g * fan + m
            for g, members in enumerate(groups.values())
            for m, branch in enumerate(members)
        }
        filled: Counter[int] = Counter()
        places = []
        for branch in self.rows:
            places.append(slots[branch] * width + filled[branch])
            filled[branch] += 1
        self.places = torch.tensor(places)
        self.num_places = len(groups) * fan * width
        return self._levels([members[0] for members in groups.values()], slots, len(groups) * fan)

    def _levels(self, leaders: list[int], slots: dict[int, int], num_slots: int) -> list[Level]:
        levels = [self.engine.stack_prefixes([self.prefixes[branch] for branch in leaders])]
        if any(self.suffixes[branch] is not None for branch in slots):
            empty = self.prefixes[leaders[0]].kv[:, :, :, :0]
            kvs = [empty] * num_slots
            for branch, slot in slots.items():
                suffix = self.suffixes[branch]
                kvs[slot] = empty if suffix is None else suffix.kv
            levels.append(stack(kvs))
        return levels

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens [rows, L]; their last hidden states [rows, L, hidden]."""
        length, device = tokens.shape[1], self.engine.family.device
        places = self.places.to(device)
        grid = torch.zeros(self.num_places, length, dtype=torch.long, device=device)
        grid[places] = tokens.to(device)
        embeds = self.engine.family.base.get_input_embeddings()(grid)
        hidden = self.engine.run(self.tree, embeds, self._positions(length).to(device))
        return hidden[places]

    def _positions(self, length: int) -> Tensor:
        starts = torch.zeros(self.num_places, dtype=torch.long)
        starts[self.places] = torch.tensor([self._start(branch) for branch in self.rows])
        offsets = torch.arange(self.tree.length, self.tree.length + length)
        return (starts[:, None] + offsets).expand(3, -1, -1)

    def _start(self, branch: int) -> int:
        return (self.suffixes[branch] or self.prefixes[branch]).next_position

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these; they are numbered anew, in the given order."""
        old = self.places[list(rows)]
        self.rows = [self.rows[row] for row in rows]
        length, capacity = self.tree.length, self.tree.leaves.shape[4]
        tree = self.engine.new_tree(self._lay_out(), rows=self.num_places, capacity=capacity)
        tree.leaves[:, :, self.places, :, :length] = self.tree.leaves[:, :, old, :, :length]
        tree.length = length
        self.tree = tree

    def block(self, row: int, length: int) -> Block:
        """A copy of the keys and values of a row's first ``length`` tokens."""
        kv = self.tree.leaves[:, :, self.places[row], :, :length].clone()
        return Block(kv, self._start(self.rows[row]) + length)


def stack(kvs: Sequence[Tensor]) -> Level:
    """Right pad [layers, 2, kv heads, T, D] tensors into one level."""
    lengths = torch.tensor([kv.shape[3] for kv in kvs])
    longest = int(lengths.max())
    out = kvs[0].new_zeros(*kvs[0].shape[:2], len(kvs), kvs[0].shape[2], longest, kvs[0].shape[4])
    for i, kv in enumerate(kvs):
        out[:, :, i, :, : kv.shape[3]] = kv
    if int(lengths.min()) == longest:
        return Level(out, None)
    hidden = torch.arange(longest) >= lengths[:, None]
    return Level(out, hidden[:, None, None].to(out.device))
