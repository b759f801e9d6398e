"""Attention over a tree: each row sees its ancestors' keys and values, stored once, and its own.

A level of the tree holds N sequences; R = N * width rows of queries share them in order. The
scores of all levels are joined in one softmax, so the result equals plain attention over the
concatenated keys, while no key is ever copied for a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "visvm_tree"


@dataclass(frozen=True, eq=False)
class Level:
    """Keys and values of N sequences, ``kv`` [layers, 2, N, kv heads, T, D], right padded.

    ``hidden`` [N, 1, 1, T] marks the padding (None: there is none).
    """

    kv: Tensor
    hidden: Tensor | None


class Tree:
    """Parent levels, and the growing leaves: one sequence for each row."""

    def __init__(self, parents: list[Level], leaves: Tensor) -> None:
        """``leaves``: uninitialised room [layers, 2, R, kv heads, capacity, D]; it grows at need."""
        self.parents = parents
        self.leaves = leaves
        self.length = 0

    def make_room(self, num_tokens: int) -> None:
        """Double the leaves' capacity until ``num_tokens`` more fit."""
        while self.leaves.shape[4] < self.length + num_tokens:
            self.leaves = torch.cat([self.leaves, torch.empty_like(self.leaves)], dim=4)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
        """Append key, value [R, kv heads, L, D] to the leaves; the output [R, heads, L, D]."""
        start, end = self.length, self.length + query.shape[2]
        self.leaves[layer, 0, :, :, start:end] = key
        self.leaves[layer, 1, :, :, start:end] = value
        own = self.leaves[layer, :, :, :, :end]
        if not self.parents and start == 0:
            return F.scaled_dot_product_attention(
                query, own[0], own[1], is_causal=True, scale=scaling, enable_gqa=True
            )
        levels = [(level.kv[layer], level.hidden) for level in self.parents]
        levels.append((own, _future(start, end, query.device)))
        return _joint_attention(query, levels, scaling)


def _future(start: int, end: int, device: torch.device) -> Tensor | None:
    """[L, end] marks the keys after each of the L queries; None for a single query."""
    if end - start == 1:
        return None
    return torch.ones(end - start, end, dtype=torch.bool, device=device).triu(start + 1)


def _joint_attention(query: Tensor, levels: list[tuple[Tensor, Tensor | None]], scaling: float) -> Tensor:
    scores = [_scores(query, kv[0], hidden) for kv, hidden in levels]
    weights = torch.cat(scores, dim=-1).mul_(scaling).softmax(dim=-1).to(query.dtype)
    parts = weights.split([kv.shape[3] for kv, _ in levels], dim=-1)
    out = torch.zeros_like(query)
    for part, (kv, _) in zip(parts, levels, strict=True):
        out += _unfold(_fold(part, kv[1]) @ kv[1], query)
    return out


def _scores(query: Tensor, key: Tensor, hidden: Tensor | None) -> Tensor:
    """Float32 scores [R, heads, L, T] of rows against the level's keys [N, kv heads, T, D]."""
    scores = (_fold(query, key) @ key.transpose(-1, -2)).float()
    if hidden is not None and hidden.dim() == 4:  # padding of the level's sequences
        scores = scores.masked_fill(hidden, float("-inf"))
    scores = _unfold(scores, query)
    if hidden is not None and hidden.dim() == 2:  # the causal order among the row's own tokens
        scores = scores.masked_fill(hidden, float("-inf"))
    return scores


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


def tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[Tensor, None]:
    """A transformers attention function: over ``tree`` where one is passed, else plain SDPA."""
    tree: Tree | None = kwargs.pop("tree", None)
    if tree is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    out = tree.attend(int(module.layer_idx), query, key, value, kwargs["scaling"])  # type: ignore[arg-type]
    return out.transpose(1, 2).contiguous(), None


def use_tree_attention(model: Any) -> None:
    """Let the language model of ``model`` accept a ``tree``; without one it computes as before."""
    AttentionInterface.register(NAME, tree_attention)
    # Without a mask function of the same name, transformers silently drops padding masks.
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})
