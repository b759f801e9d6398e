"""What layers without attention keep of a text: for each row the state of a convolution, and a recurrent one.

Such layers (Qwen3.5's linear attention, LFM2's short convolutions) ask transformers' cache for their states.
``RowStates`` stands in for it: it gives the states that rows begin with, and keeps those they end with;
nothing is changed in place, so rows that fork share the state before.

    ("conv", layer)       [R, channels, kernel]   the last inputs of the convolution
    ("recurrent", layer)  [R, heads, D, D]        keys times values, summed with decay
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Tensors = Mapping[tuple[str, int], Tensor]
CACHE_NAMES = ("cache_params", "past_key_values")  # what the layers call it
_current: ContextVar[RowStates | None] = ContextVar("visvm_row_states", default=None)


class RowStates:
    """States of R rows: ``before`` a pass, and ``after`` it once it has run."""

    def __init__(self, before: Tensors | None = None) -> None:
        self.before: Tensors = before or {}
        self.after: dict[tuple[str, int], Tensor] = {}

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the last inputs before this pass."""
        return self.before.get(("conv", layer_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Return the recurrent state before this pass."""
        return self.before.get(("recurrent", layer_idx))

    def is_recording_past(self, layer_idx: int) -> bool:
        """Return True: the layer then changes nothing in place."""
        return True

    def update_conv_state(self, inputs: Tensor, layer_idx: int, *, conv_kernel_size: int, **_: Any) -> Tensor:
        """Return the inputs [R, channels, L] behind those before, and keep the last ones."""
        before = self.get_conv_state(layer_idx)
        whole = inputs if before is None else torch.cat([before, inputs], dim=-1)
        padded = F.pad(whole, (max(0, conv_kernel_size - whole.shape[-1]), 0))
        self.after["conv", layer_idx] = padded[..., -conv_kernel_size:]
        return whole

    def update_recurrent_state(self, state: Tensor, layer_idx: int, **_: Any) -> Tensor:
        """Keep the state after this pass."""
        self.after["recurrent", layer_idx] = state
        return state


def rows_of(states: Tensors, rows: Sequence[int]) -> Tensors:
    """Return a copy of some rows."""
    return {key: state[list(rows)] for key, state in states.items()}


def joined(states: Sequence[Tensors]) -> Tensors:
    """Return the rows of all ``states``, in order."""
    return {key: torch.cat([one[key] for one in states]) for key in states[0]} if states else {}


def num_bytes(states: Tensors) -> int:
    """Return what the states take."""
    return sum(state.nbytes for state in states.values())


@contextmanager
def tracking(states: RowStates) -> Iterator[None]:
    """Let the layers of a language model that runs meanwhile begin with and keep ``states``."""
    token = _current.set(states)
    try:
        yield
    finally:
        _current.reset(token)


def use_row_states(language_model: nn.Module) -> bool:
    """Let the layers that keep states use ``tracking``; return whether there are any."""
    layers = [one for one in language_model.modules() if hasattr(one, "conv_kernel_size")]
    for layer in layers:
        layer.register_forward_pre_hook(_give_states, with_kwargs=True)
    return bool(layers)


def _give_states(layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    states = _current.get()
    if states is None:
        return None
    takes = inspect.signature(layer.forward).parameters
    return args, kwargs | {next(name for name in CACHE_NAMES if name in takes): states}
