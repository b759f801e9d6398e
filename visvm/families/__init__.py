"""Vision-language models behind one interface, whatever their family."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from visvm.families.base import Family, Inputs
from visvm.families.table import FAMILIES, refusal
from visvm.storage import mirror

__all__ = ["FAMILIES", "Family", "Inputs", "check_supported"]


def check_supported(config: Any) -> str:
    """Return the model type of a config object, directory or hub id.

    Raises:
        ValueError: the model cannot be found, is no vision-language model, or cannot be exact.
    """
    if isinstance(config, str):
        try:
            config = AutoConfig.from_pretrained(mirror.settings(config))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read a model at {config!r}: {str(error).splitlines()[0]}") from None
    name = config.model_type
    if name not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"model type {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    if reason := refusal(config):
        raise ValueError(f"model type {name!r} is not supported: {reason}")
    return name
