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
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.utils.rnn import pad_sequence
from transformers.integrations.flex_attention import flex_attention_forward

from visvm.engine.attention import Scoring, plain_attention

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


def one_text_a_row(packed: Packed) -> tuple[Packed, list[int]]:
    """Return the same texts, each in a row of its own, and the image of each row.

    A text that begins another one shares its row; other common beginnings are computed again.
    """
    images, ends = packed.rows.tolist(), packed.ends.tolist()
    reads = list(zip(images, packed.columns.tolist(), strict=True))
    texts: list[tuple[int, list[int]]] = []  # image, columns of the path
    places: dict[tuple[int, int], tuple[int, int]] = {}
    for image, column in sorted(reads, reverse=True):  # a text's longest read comes first
        if (image, column) in places:
            continue
        path = [k for k in range(column + 1) if ends[image][k] > column]
        places |= {
            (image, k): (len(texts), depth) for depth, k in enumerate(path) if (image, k) not in places
        }
        texts.append((image, path))
    where = torch.tensor([places[read] for read in reads], device=packed.ends.device).view(-1, 2)
    tokens = [packed.tokens[image, path] for image, path in texts]
    lengths = torch.tensor([len(path) for _, path in texts], device=packed.ends.device)
    rows = pad_sequence(tokens, batch_first=True)
    depths = torch.arange(rows.shape[1], device=rows.device).expand(len(texts), -1)
    ends_of_rows = torch.where(depths < lengths[:, None], lengths[:, None], 0)
    return Packed(rows, depths, ends_of_rows, where[:, 0], where[:, 1]), [image for image, _ in texts]


def tree_mask(ends: Tensor) -> Tensor:
    """[B, L] ends -> [B, 1, L, L] bool: key k is seen by query q if k <= q < ends[k], or k = q."""
    place = torch.arange(ends.shape[1], device=ends.device)
    return _seen(ends, place, place)


def _seen(ends: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """The rows and columns of the tree's mask at these places: [B, 1, queries, keys]."""
    query = queries[:, None]
    # Padding sees itself, so that no row of the softmax is empty.
    return ((keys <= query) & (query < ends[:, None, keys]) | (keys == query))[:, None]


class Recorded:
    """Keys and values of B images by layer, with gradient, as ``Family.read`` records them."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.layers: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def record(self, members: Sequence[int], layer: int, key: Tensor, value: Tensor) -> None:
        """Keep what a layer computed for some of the images [members, kv heads, P, D]."""
        images: list[Any] = self.layers.setdefault(layer, list[Any]([None]) * self.num_images)
        for row, i in enumerate(members):
            images[i] = key[row].transpose(0, 1), value[row].transpose(0, 1)

    def select(self, images: Sequence[int]) -> Recorded:
        """Return the same for ``images``, each as often as it is named."""
        chosen = Recorded(len(images))
        chosen.layers = {layer: [own[i] for i in images] for layer, own in self.layers.items()}
        return chosen

    def padded(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, kv heads, P, D] of a layer, right padded."""
        keys, values = zip(*self.layers[layer], strict=True)
        return tuple(pad_sequence(list(one), batch_first=True).transpose(1, 2) for one in (keys, values))  # type: ignore[return-value]


class TreeAttention:
    """Attention of packed trees over recorded images and their own tokens.

        keys    0 ..... P-1 | P ..... P+S-1
                image b     | tree b, in depth-first order

    In strips of queries, each with the keys that any of them can see: in depth-first order those are
    the image and a run of tokens that ends with the strip. The result is the dense mask's, for less
    than half of its work where there are many texts. With ``use_blocks`` flex attention skips the blocks
    that no query sees.
    """

    def __init__(self, images: Recorded, lengths: Sequence[int], packed: Packed, *, use_blocks: bool) -> None:
        """``lengths`` are the images' tokens."""
        self.images, self.packed, self.use_blocks = images, packed, use_blocks
        self.lengths = torch.tensor(lengths, device=packed.ends.device)
        self.num_prefix = max(lengths)
        self._masks: dict[int | None, Any] = {}

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, how: Scoring) -> Tensor:
        """Return [B, heads, S, D] from query and from key, value [B, kv heads, S, D]."""
        before = self.images.padded(module.layer_idx)
        make = self._block_mask if self.use_blocks else self._strips
        if how.window not in self._masks:
            self._masks[how.window] = make(how.window)
        if self.use_blocks:
            k, v = (torch.cat(pair, dim=2) for pair in zip(before, (key, value), strict=True))
            options: dict[str, Any] = {"scaling": how.scaling, "softcap": how.softcap}
            out, _ = flex_attention_forward(module, query, k, v, self._masks[how.window], **options)
            return out.transpose(1, 2)
        parts = []
        for start, end, low, mask in self._masks[how.window]:
            own = key[:, :, low:end], value[:, :, low:end]
            k, v = (torch.cat(pair, dim=2) for pair in zip(before, own, strict=True))
            parts.append(plain_attention(query[:, :, start:end], k, v, mask, how))
        return torch.cat(parts, dim=2)

    def _strips(self, window: int | None) -> list[tuple[int, int, int, Tensor]]:
        ends, strips, low = self.packed.ends, [], 0
        last, length = ends.amax(dim=0).tolist(), ends.shape[1]
        place = torch.arange(length, device=ends.device)
        for start in range(0, length, STRIP):
            end = min(length, start + STRIP)
            low = next((k for k in range(low, start) if last[k] > start), start)
            seen = _seen(ends, place[start:end], place[low:end])
            seen = torch.cat([self._seen_images().expand(-1, -1, end - start, -1), seen], dim=3)
            if window is not None:
                seen = seen & self._near(window, start, end, low)
            strips.append((start, end, low, seen))
        return strips

    def _seen_images(self) -> Tensor:
        """[B, 1, 1, P]: what is no padding."""
        keys = torch.arange(self.num_prefix, device=self.lengths.device)
        return (keys < self.lengths[:, None])[:, None, None]

    def _near(self, window: int, start: int, end: int, low: int) -> Tensor:
        """[B, 1, queries, P + keys]: keys within the window of their query, by place in their sequence."""
        images = torch.arange(self.num_prefix, device=self.lengths.device).expand(len(self.lengths), -1)
        places = self.lengths[:, None] + self.packed.depths
        keys = torch.cat([images, places[:, low:end]], dim=1)
        return (keys[:, None, :] > places[:, start:end, None] - window)[:, None]

    def _block_mask(self, window: int | None) -> BlockMask:
        """The same mask for flex attention."""
        ends, depths, lengths, room = self.packed.ends, self.packed.depths, self.lengths, self.num_prefix

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_own = key >= room
            own = (key - room).clamp_min(0)
            seen_own = (own <= query) & (query < ends[batch, own]) | (own == query)
            seen = torch.where(is_own, seen_own, key < lengths[batch])
            if window is None:
                return seen
            place = lengths[batch] + depths[batch, query]
            return seen & (torch.where(is_own, lengths[batch] + depths[batch, own], key) > place - window)

        batch, length = ends.shape
        return create_block_mask(sees, batch, None, length, room + length, device=str(ends.device))


def _pad(rows: list[list[int]]) -> Tensor:
    # One column at least: a language model cannot run over none.
    return pad_sequence([torch.tensor(row or [0], dtype=torch.long) for row in rows], batch_first=True)
