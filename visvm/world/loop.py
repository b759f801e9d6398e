"""Parts of the training loop of every stage of the recipe: budget, batches, optimizer, progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

_DECAY = 0.05
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, "Muon"
_MUON_SCALE = 0.2  # gives its updates the size of AdamW's (Liu et al. 2025, arXiv 2502.16982)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """The training budget of a stage: steps, images per step, peak learning rate."""

    steps: int
    batch: int
    rate: float


def batches(count: int, budget: Budget, *, seed: int) -> Iterator[np.ndarray]:
    """Yield ``budget.steps`` random batches of indices below ``count``, epoch by epoch."""
    rng = np.random.default_rng(seed)
    order: np.ndarray = np.empty(0, dtype=np.int64)
    for _ in range(budget.steps):
        if len(order) < budget.batch:
            order = np.concatenate([order, rng.permutation(count)])
        yield order[: budget.batch]
        order = order[budget.batch :]


class Optimizer:
    """AdamW, with Muon for the weights of linear layers; a warm-up, then a cosine down to 2 % of the rate.

    Muon's updates have the same size in all directions of a matrix. With it, models as small as these
    learn to attend to the right patch in a fraction of the steps AdamW needs.
    """

    def __init__(self, modules: list[nn.Module], budget: Budget) -> None:
        self.budget, self.step = budget, 0
        linear = {id(m.weight) for module in modules for m in module.modules() if isinstance(m, nn.Linear)}
        embedded = {
            id(m.weight) for module in modules for m in module.modules() if isinstance(m, nn.Embedding)
        }
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.matrices = [p for p in self.parameters if id(p) in linear - embedded]
        rest = [p for p in self.parameters if id(p) not in linear - embedded]
        self.adam = torch.optim.AdamW(rest, lr=budget.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.momenta = [torch.zeros_like(matrix) for matrix in self.matrices]

    def advance(self, loss: Tensor) -> None:
        """Take one step on ``loss``, with the norm of the gradient clipped at 1."""
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        rate = self.budget.rate * _schedule(self.step, self.budget.steps)
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self._muon(rate)
        self.step += 1

    @torch.no_grad()
    def _muon(self, rate: float) -> None:
        for matrix, momentum in zip(self.matrices, self.momenta, strict=True):
            if matrix.grad is not None:
                momentum.lerp_(matrix.grad, 0.05)
                update = orthogonal(matrix.grad.lerp(momentum, 0.95))
                matrix.mul_(1 - rate * _DECAY)
                matrix.sub_(update, alpha=rate * _MUON_SCALE * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrix: all singular values near 1 (Newton-Schulz)."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def _schedule(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    down = 0.51 + 0.49 * float(np.cos(np.pi * max(0, step - warm) / max(1, steps - warm)))
    return min(1.0, (step + 1) / warm) * down


class LoopProgress:
    """Logs the smoothed metrics of a stage every ``seconds``."""

    def __init__(self, stage: str, steps: int, *, seconds: float = 5.0) -> None:
        self.stage, self.steps, self.seconds = stage, steps, seconds
        self.start = self.last = time.monotonic()
        self.means: dict[str, float] = {}

    def __call__(self, step: int, **metrics: torch.Tensor) -> None:
        for name, value in metrics.items():
            self.means[name] = 0.95 * self.means.get(name, value.item()) + 0.05 * value.item()
        now = time.monotonic()
        if now - self.last > self.seconds or step + 1 == self.steps:
            self.last = now
            text = ", ".join(f"{name} {mean:.3f}" for name, mean in self.means.items())
            logger.info(
                "%s: step %d of %d, %s, %.0f s", self.stage, step + 1, self.steps, text, now - self.start
            )
