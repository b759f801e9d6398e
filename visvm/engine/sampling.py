"""Logits, and temperature and nucleus sampling by one seeded stream of uniforms for each candidate."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visvm.engine.linear import few_rows


def uniforms(*key: object, num: int) -> np.ndarray:
    """``num`` numbers in [0, 1) that depend on ``key`` alone, never on the batch or the machine."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(num)


def sample(
    logits: Tensor, temperatures: Tensor, uniform: Tensor, *, top_p: float = 1.0, top_k: int = 0
) -> Tensor:
    """One token id for each row of ``logits`` [R, V], by inverse CDF at ``uniform`` [R].

    ``temperatures`` [R]: 0 takes the most likely token (the first of equals). Then top-k, then
    nucleus sampling (Holtzman et al. 2020): the smallest set of at least ``top_p`` probability.
    """
    if not bool((temperatures > 0).any()):
        return logits.argmax(dim=-1)
    top = _descending(logits) if not 0 < top_k < logits.shape[-1] else logits.topk(top_k, dim=-1).values
    greedy = temperatures <= 0
    below = (top - top[:, :1]) / temperatures.masked_fill(greedy, 1.0)[:, None]
    mass = below.exp_().cumsum(dim=-1, dtype=torch.float64)  # of a token and all likelier ones
    last = torch.searchsorted(mass, top_p * mass[:, -1:])  # of the nucleus
    drawn = uniform[:, None] * mass.gather(1, last)
    rank = torch.searchsorted(mass, drawn, right=True).minimum(last)
    return _ranked(logits, top, rank.masked_fill(greedy[:, None], 0))


def _descending(logits: Tensor) -> Tensor:
    """The logits of each row in descending order; on the CPU by numpy, ten times as fast as torch."""
    if logits.device.type != "cpu":
        return logits.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(-logits.numpy(), axis=-1)).neg_()


def _ranked(logits: Tensor, top: Tensor, rank: Tensor) -> Tensor:
    """The tokens [R] at ``rank`` [R, 1] of the descending ``top``; of equals the lower token is first."""
    value = top.gather(1, rank)
    nth = rank - (top > value).sum(dim=-1, keepdim=True)
    found = (logits == value).cumsum(dim=-1, dtype=torch.int32)
    return torch.searchsorted(found, (nth + 1).int())[:, 0]


class Head(nn.Module):
    """A language-model head with the cap on its logits that Gemma has."""

    def __init__(self, linear: nn.Module, text_config: Any) -> None:
        super().__init__()
        self.linear = linear
        self.softcap: float | None = getattr(text_config, "final_logit_softcapping", None)

    def forward(self, hidden: Tensor) -> Tensor:
        with few_rows():
            logits = self.linear(hidden).float()
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap
