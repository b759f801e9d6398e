"""The VLM families the engine supports, by the ``model_type`` of their config."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoConfig

from visvm.families.base import EncodedImage, Family
from visvm.families.llava import Llava, LlavaNext
from visvm.families.qwen import QwenVL
from visvm.storage import mirror

FAMILIES: dict[str, type[Family]] = {
    "llava": Llava,
    "llava_next": LlavaNext,
    "llava_onevision": LlavaNext,
    "qwen2_vl": QwenVL,
    "qwen2_5_vl": QwenVL,
}

__all__ = ["FAMILIES", "EncodedImage", "Family", "check_supported", "family_of"]


def family_of(base: nn.Module, processor: Any) -> Family:
    """Wrap a base VLM (``LlavaModel``, ``Qwen2VLModel``, ...) and its processor.

    Raises:
        ValueError: naming the supported families, for any other model type.
    """
    return FAMILIES[check_supported(base.config)](base, processor)


def check_supported(config: Any) -> str:
    """The model type of a config object, directory or hub id.

    Raises:
        ValueError: the model is not of a supported family, or cannot be found.
    """
    if isinstance(config, str):
        try:
            config = AutoConfig.from_pretrained(mirror.settings(config))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read a model at {config!r}: {str(error).splitlines()[0]}") from None
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"model type {config.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    return config.model_type
