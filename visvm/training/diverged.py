"""Training whose loss or weights are no numbers any more: it ends, and nothing of it is published."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import Tensor


class Diverged(RuntimeError):
    """Training diverged; a second attempt with the same settings would do so too."""


def check_losses(losses: Mapping[str, Any], step: int) -> None:
    """Check the numbers of a step.

    Raises:
        Diverged: one is NaN or infinite.
    """
    for name, value in losses.items():
        if isinstance(value, float) and not isfinite(value):
            raise Diverged(f"{name} is {value} at step {step}: lower the learning rate")


def check_state(state: Mapping[str, Tensor]) -> None:
    """Check trained weights.

    Raises:
        Diverged: one is NaN or infinite.
    """
    for name, weight in state.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise Diverged(f"the trained weights {name} are not finite: lower the learning rate")
