"""Packing with gradient: behind each image's prefix, a tree of tokens whose paths are the texts.

Texts that begin alike share their beginning, and each token sees the prefix and its own path, so losses
and gradients equal those of one sequence a text. In depth-first order a token's descendants are the
run of tokens up to its ``end``, so the mask is k <= q < end[k]: a dense tensor, or the one line that a
block-sparse kernel asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.utils.rnn import pad_sequence

from visvm.families import EncodedImage

STRIP = 128  # queries of one call: shorter ones see fewer keys in vain, but are more calls


class TokenTree:
    """Texts of one image, as token ids: each distinct path of tokens is stored once."""

    def __init__(self) -> None:
        self._children: list[dict[int, int]] = [{}]

    def add(self, ids: Sequence[int]) -> list[int]:
        """Add a text; the nodes of its tokens, by which they are read. The root (no token) is 0."""
        node, path = 0, []
        for token in ids:
            children = self._children[node]
            if token not in children:
                children[token] = len(self._children)
                self._children.append({})
            node = children[token]
            path.append(node)
        return path

    def __len__(self) -> int:
        return len(self._children) - 1

    def lay_out(self) -> TreeRow:
        """The tokens in depth-first order."""
        tokens, depths, ends = ([0] * len(self) for _ in range(3))
        columns: dict[int, int] = {}
        stack = [(node, token, 0) for token, node in reversed(self._children[0].items())]
        while stack:
            node, token, depth = stack.pop()
            if token < 0:  # all that hangs on the node is laid out
                ends[columns[node]] = len(columns)
                continue
            column = columns[node] = len(columns)
            tokens[column], depths[column] = token, depth
            stack.append((node, -1, depth))
            children = reversed(self._children[node].items())
            stack += [(child, after, depth + 1) for after, child in children]
        return TreeRow(tokens, depths, ends, columns)


@dataclass(frozen=True)
class TreeRow:
    """A tree in depth-first order: tokens, their depth, the end of their descendants; columns by node."""

    tokens: list[int]
    depths: list[int]
    ends: list[int]
    columns: dict[int, int]


@dataclass(frozen=True, eq=False)
class Packed:
    """The trees of B images in rows of S tokens, and the tokens to read.

    ``tokens``, ``depths`` and ``ends`` (0 for padding) are [B, S]; ``rows`` and ``columns`` [reads].
    """

    tokens: Tensor
    depths: Tensor
    ends: Tensor
    rows: Tensor
    columns: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(*(getattr(self, one.name).to(device) for one in fields(self)))


def pack_trees(trees: Sequence[TokenTree], reads: Sequence[Sequence[int]]) -> Packed:
    """One row an image; ``reads`` are the nodes of its tree to read."""
    rows = [tree.lay_out() for tree in trees]
    places = [(i, rows[i].columns[node]) for i, nodes in enumerate(reads) for node in nodes]
    where = torch.tensor(places, dtype=torch.long).view(-1, 2)
    tokens, depths, ends = (
        _pad([getattr(row, name) for row in rows]) for name in ("tokens", "depths", "ends")
    )
    return Packed(tokens, depths, ends, where[:, 0], where[:, 1])


def join_prefixes(
    encoded: Sequence[EncodedImage], packed: Packed, embeds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the images before the ``embeds`` [B, S, hidden] of their trees.

    Returns the inputs [B, P + S, hidden], their rotary positions [3, B, P + S] and the ends of their
    descendants [B, P + S]; the trees are the last S columns.
    """
    prefix = pad_sequence([one.embeds for one in encoded], batch_first=True)
    positions = pad_sequence([one.positions.T for one in encoded], batch_first=True).permute(2, 0, 1)
    starts = torch.tensor([one.next_position for one in encoded], device=embeds.device)
    own = (packed.depths + starts[:, None]).expand(3, -1, -1)
    length, room = prefix.shape[1] + embeds.shape[1], prefix.shape[1]
    # Everything behind an image descends from it, but nothing from the padding after it.
    ends = pad_sequence(
        [packed.ends.new_full((len(one.embeds),), length) for one in encoded], batch_first=True
    )
    inputs, all_positions = torch.cat([prefix, embeds], dim=1), torch.cat([positions, own], dim=2)
    return inputs, all_positions, torch.cat([ends, packed.ends + room], dim=1)


def tree_mask(ends: Tensor) -> Tensor:
    """[B, L] ends -> [B, 1, L, L] bool: key k is seen by query q if k <= q < ends[k], or k = q."""
    place = torch.arange(ends.shape[1], device=ends.device)
    return _seen(ends, place, place)


def _seen(ends: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """The rows and columns of the tree's mask at these places: [B, 1, queries, keys]."""
    query = queries[:, None]
    # Padding sees itself, so that no row of the softmax is empty.
    return ((keys <= query) & (query < ends[:, None, keys]) | (keys == query))[:, None]


class TreeStrips:
    """Attention over packed trees in strips of queries, each with the keys that any of them can see.

    In depth-first order those are the images and a run of tokens that ends with the strip. The result
    is the dense mask's, for less than half of its work where there are many texts.
    """

    def __init__(self, ends: Tensor, num_prefix: int) -> None:
        """``ends`` [B, L] as of ``join_prefixes``; the first ``num_prefix`` columns are the images."""
        self.num_prefix = num_prefix
        self.strips: list[tuple[int, int, int, Tensor]] = []
        last, length = ends.amax(dim=0).tolist(), ends.shape[1]
        place = torch.arange(length, device=ends.device)
        low = num_prefix
        for start in range(num_prefix, length, STRIP):
            end = min(length, start + STRIP)
            low = next((k for k in range(low, start) if last[k] > start), start)
            keys = torch.cat([place[:num_prefix], place[low:end]])
            self.strips.append((start, end, low, _seen(ends, place[start:end], keys)))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """[B, heads, L, D] from query and from key, value [B, kv heads, L, D]; the same in every layer."""
        room = self.num_prefix
        options: dict[str, Any] = {"scale": scaling, "enable_gqa": True}
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, :room], key[:, :, :room], value[:, :, :room], is_causal=True, **options
            )
        ]
        for start, end, low, mask in self.strips:
            k, v = (torch.cat([one[:, :, :room], one[:, :, low:end]], dim=2) for one in (key, value))
            parts.append(
                F.scaled_dot_product_attention(query[:, :, start:end], k, v, attn_mask=mask, **options)
            )
        return torch.cat(parts, dim=2)


def tree_block_mask(ends: Tensor) -> BlockMask:
    """The same mask for flex attention, which skips the blocks that no query sees."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < ends[batch, key]) | (key == query)

    batch, length = ends.shape
    return create_block_mask(sees, batch, None, length, length, device=str(ends.device))


def _pad(rows: list[list[int]]) -> Tensor:
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
