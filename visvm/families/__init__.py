"""Vision-language models behind one interface, whatever their family."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from visvm.families import adapters
from visvm.families.base import Family, Inputs
from visvm.families.table import FAMILIES, REFUSED, refusal
from visvm.storage import mirror

__all__ = ["FAMILIES", "Family", "Inputs", "UnsupportedModel", "check_supported", "read_config"]


class UnsupportedModel(ValueError):
    """A model that can be read, but is not (known to be) computed exactly."""


def check_supported(config: Any) -> str:
    """Return the model type of a config object, directory or hub id; of an adapter, that of its base.

    Raises:
        ValueError: the model cannot be found.
        UnsupportedModel: it is not of a supported family, or cannot be exact.
    """
    if isinstance(config, str):
        config = read_config(config)
    name: str = config.model_type
    if name in FAMILIES and (reason := refusal(config)):
        raise UnsupportedModel(f"model type {name!r} is not supported: {reason}")
    if name not in FAMILIES:
        reason = REFUSED.get(name, "it was never compared with transformers' own generate")
        raise UnsupportedModel(
            f"model type {name!r} is not supported ({reason}); supported: {', '.join(FAMILIES)}"
        )
    return name


def read_config(name: str) -> Any:
    """Return the configuration of a directory or hub id; of an adapter, that of its base.

    Raises:
        ValueError: the model cannot be found.
    """
    base = adapters.base_of(name)
    try:
        return AutoConfig.from_pretrained(mirror.settings(base or name), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        what = f"{name!r}, whose base is {base!r}" if base else repr(name)
        reason = str(error).splitlines()[0]
        if "trust_remote_code" in str(error):
            reason = "it comes with code of its own (auto_map), which is never run here"
        raise ValueError(f"cannot read a model at {what}: {reason}") from None
