"""Temperature and nucleus sampling, one seeded stream of uniforms for each candidate."""

from __future__ import annotations

import hashlib

import numpy as np
from torch import Tensor


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
    if 0 < top_k < logits.shape[-1]:
        top, ids = logits.topk(top_k, dim=-1)
    else:
        top, ids = logits.sort(dim=-1, descending=True, stable=True)
    greedy = temperatures <= 0
    probs = (top / temperatures.masked_fill(greedy, 1.0)[:, None]).double().softmax(dim=-1)
    probs = probs.masked_fill(probs.cumsum(dim=-1) - probs >= top_p, 0.0)
    cdf = probs.cumsum(dim=-1)
    pick = (cdf <= uniform[:, None] * cdf[:, -1:]).sum(dim=-1).clamp(max=cdf.shape[-1] - 1)
    return ids.gather(1, pick.masked_fill(greedy, 0)[:, None])[:, 0]
