"""LoRA (Hu et al. 2021): train two thin matrices beside each linear layer, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from visvm.families import Family, adapters
from visvm.training.config import LoraSettings


def check_base(policy: str, settings: LoraSettings | None) -> None:
    """Check that LoRA can be trained on a policy.

    Raises:
        ValueError: it is an adapter itself: the new one would have a base that is nowhere on disk.
    """
    if settings is not None and adapters.base_of(policy) is not None:
        raise ValueError(
            f"policy {policy} is a LoRA adapter: merge it first (visvm merge {policy} --out DIR)"
        )


def targets(model: nn.Module, family: Family, *, vision: bool) -> list[str]:
    """Return the names in ``model`` of the linear layers of the language model, and of the vision encoder."""
    parts = [family.language_model, family.vision] if vision else [family.language_model]
    chosen = {id(layer) for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)}
    return [name for name, layer in model.named_modules() if id(layer) in chosen]


def lora_config(settings: LoraSettings, names: list[str], base: str | None = None) -> Any:
    """Return peft's configuration for LoRA on the layers ``names``; ``base`` is the model it belongs to."""
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.scale,  # type: ignore[arg-type]  # it divides by the rank
        lora_dropout=settings.dropout,
        target_modules=names,
        base_model_name_or_path=base,
    )


def merged_state(state: Mapping[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """Return the weights of a model without LoRA: W + alpha / rank * B A, under their own names."""
    out = {}
    for key, weight in state.items():
        if key.endswith(".base_layer.weight"):
            stem = key.removesuffix("base_layer.weight")
            a, b = (state[f"{stem}lora_{part}.default.weight"] for part in "AB")
            weight = weight + (settings.scale / settings.rank) * (b @ a).to(weight.dtype)
        if ".lora_" not in key:
            out[key.replace(".base_layer.", ".")] = weight
    return out
