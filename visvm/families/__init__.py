"""Vision-language models behind one interface, whatever their family."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from visvm.families.base import Family, Inputs
from visvm.families.table import FAMILIES, REFUSED, refusal
from visvm.storage import mirror

__all__ = ["FAMILIES", "Family", "Inputs", "check_supported"]


def check_supported(config: Any) -> str:
    """Return the model type of a config object, directory or hub id.

    Raises:
        ValueError: the model cannot be found, is not of a supported family, or cannot be exact.
    """
    if isinstance(config, str):
        try:
            config = AutoConfig.from_pretrained(mirror.settings(config))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"cannot read a model at {config!r}: {str(error).splitlines()[0]}") from None
    name = config.model_type
    if name in FAMILIES and (reason := refusal(config)):
        raise ValueError(f"model type {name!r} is not supported: {reason}")
    if name not in FAMILIES:
        reason = REFUSED.get(name, "it was never compared with transformers' own generate")
        raise ValueError(f"model type {name!r} is not supported ({reason}); supported: {', '.join(FAMILIES)}")
    return name
