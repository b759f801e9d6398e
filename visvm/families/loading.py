"""Load a vision-language model and its processor: as saved, quantised, or with a LoRA adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from visvm.families import adapters, check_supported
from visvm.families.weights import check_finite, load_weights
from visvm.storage import mirror

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_model(name: str, *, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """Return (model, processor) of a directory (local, or a URI) or hub id.

    The directory of a LoRA adapter stands for its base with the adapter merged. Quantised weights
    (bitsandbytes, torchao) stay quantised; ``dtype`` is that of all others ("auto": as saved).

    Raises:
        ValueError: the model cannot be found, is not of a supported family, or its weights are not whole.
    """
    check_supported(name)
    folder = mirror.local(name)
    base = adapters.base_of(folder)
    source = folder if base is None else mirror.local(base)
    placed = {"device_map": {"": device}} if is_quantised(source) else {}
    load = AutoModelForImageTextToText.from_pretrained
    model: Any = load_weights(load, source, dtype=_dtype(dtype), **placed)
    if base is not None:
        model = adapters.attach(model, folder)
        check_finite(model, folder)
    if not placed and device != "cpu":
        model = model.to(device)
    has_own = base is None or any(Path(folder, file).is_file() for file in PROCESSOR_FILES)
    return model, AutoProcessor.from_pretrained(folder if has_own else source, trust_remote_code=False)


def _dtype(name: str) -> Any:
    return name if name == "auto" else getattr(torch, name)


def is_quantised(name: str) -> bool:
    """Return whether a model's weights were saved quantised."""
    return (
        getattr(AutoConfig.from_pretrained(name, trust_remote_code=False), "quantization_config", None)
        is not None
    )
