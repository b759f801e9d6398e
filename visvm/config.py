"""Configuration: pydantic models read from YAML with overrides, unknown keys refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from visvm import storage

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """The base of every configuration: frozen, unknown keys refused, defaults checked."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the work is done and not what comes of it: a run may go on with others."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)


def load(
    cls: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = (), **given: Any
) -> ConfigT:
    """Read ``path`` (YAML), then ``a.b=c`` overrides, then keyword values that are not None.

    Raises:
        ValueError: naming the key, the value and what was expected, or the unreadable file.
    """
    data = read_yaml(path) if path else {}
    for item in overrides:
        _set(data, item)
    data.update({key: value for key, value in given.items() if value is not None})
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ValueError(_explain(error)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, local or a URI.

    Raises:
        ValueError: it cannot be read or is no mapping.
    """
    try:
        data = yaml.safe_load(storage.read(str(path)))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read config {path}: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"config {path} must be a mapping of keys to values")
    return data


def _set(data: dict[str, Any], item: str) -> None:
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise ValueError(f"--set takes KEY=VALUE, got {item!r}")
    *path, last = key.split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ValueError(f"--set {item!r}: {part!r} is a value, not a section")
    data[last] = yaml.safe_load(value)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "config"
        what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"{where} = {problem['input']!r}: {what}")
    return "; ".join(lines)
