"""LoRA adapters (peft directories) as models: their base is loaded, and they are merged into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from visvm.storage import mirror

CONFIG = "adapter_config.json"


def base_of(name: str) -> str | None:
    """Return the model that an adapter (directory or hub id) was trained on; None if ``name`` is no adapter.

    Raises:
        ValueError: the adapter does not name its base.
    """
    folder = mirror.settings(name)
    try:
        file = str(Path(folder, CONFIG)) if Path(folder).is_dir() else find_adapter_config_file(folder)
    except (OSError, ValueError):
        return None
    if file is None or not Path(file).is_file():
        return None
    base = json.loads(Path(file).read_text()).get("base_model_name_or_path")
    if not base:
        raise ValueError(f"adapter {name}: {CONFIG} does not name its base (base_model_name_or_path)")
    return str(base)


def attach(model: Any, folder: str) -> Any:
    """Return ``model`` with the adapter of ``folder``: merged, or unmerged where its weights are quantised.

    Raises:
        ValueError: the adapter is no change of weights, but a learned prompt.
    """
    from peft import PeftConfig, PeftModel

    if PeftConfig.from_pretrained(folder).is_prompt_learning:
        raise ValueError(f"adapter {folder} is a learned prompt, which is not supported; LoRA is")
    adapted: Any = PeftModel.from_pretrained(model, folder)
    if getattr(model.config, "quantization_config", None) is not None:
        return adapted.get_base_model()  # merging would round the sum to a few bits again
    return adapted.merge_and_unload(safe_merge=True)
