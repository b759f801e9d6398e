"""Load weights as saved: all of them there, of the right shapes, finite; and never a model's own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

NUM_NAMED = 3


def load_weights(from_pretrained: Callable[..., Any], name: str, **options: Any) -> Any:
    """Return the model that a class's ``from_pretrained`` loads from a directory or hub id.

    Raises:
        ValueError: weights are missing, of other shapes than the config says, not finite, or cannot be read.
    """
    try:
        model, info = from_pretrained(
            name,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
            **{**options, "trust_remote_code": False},
        )
    except Exception as error:  # safetensors has an error type of its own, which is no OSError
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        raise ValueError(f"cannot load the model {name}: {str(error).splitlines()[0]}") from error
    faults = {
        "weights are missing": sorted(info["missing_keys"]),
        "weights have other shapes than config.json says": sorted(
            f"{key} is {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]
        ),
    }
    for fault, names in faults.items():
        if names:
            raise ValueError(f"cannot use the model {name}: {fault}: {_listed(names)}")
    check_finite(model, name)
    return model


def check_finite(model: nn.Module, name: str) -> None:
    """Check that no weight of a model is NaN or infinite.

    Raises:
        ValueError: naming the weights that are.
    """
    bad = [key for key, weight in model.named_parameters() if not _is_finite(weight)]
    if bad:
        raise ValueError(f"cannot use the model {name}: weights are not finite: {_listed(bad)}")


@torch.no_grad()
def _is_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or weight.element_size() < 2 or weight.is_meta:  # quantised
        return True
    # A sum in float32 is finite only if all terms are; most weights need no second look.
    return bool(weight.sum(dtype=torch.float32).isfinite()) or bool(weight.isfinite().all())


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {rest} more" if rest > 0 else "")
