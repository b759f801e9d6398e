"""Configurations: pydantic models read from YAML with overrides; unknown keys are refused.

Keys of earlier versions are accepted by one rule (``renamed``): what is "image" today was "picture".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

ConfigT = TypeVar("ConfigT", bound="Config")

PATH_MARK, MODEL_MARK = "path", "model"
Place = Annotated[str, PATH_MARK]
"""A file or folder, local or a URI, that the nodes of a cluster read or write."""

ModelName = Annotated[str, MODEL_MARK]
"""A model: "world", a directory, a URI or a hub id."""

Options = Annotated[dict[str, Any], BeforeValidator(lambda value: parse_options(value))]
"""A mapping of options, in YAML or as "KEY=VALUE,KEY=VALUE" on the command line."""


class Config(BaseModel):
    """The base of every configuration: frozen, unknown keys refused, defaults checked."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the work is done but do not change its result: a run may resume with others."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return {renamed(key, cls): value for key, value in data.items()} if isinstance(data, dict) else data


def load(
    cls: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = (), **given: Any
) -> ConfigT:
    """Return the config of ``path`` (YAML), ``a.b=c`` overrides, and keyword values that are not None.

    Raises:
        ValueError: naming the key, the value and what was expected, or the unreadable file.
    """
    return validate(cls, gather(path, overrides, **given))


def gather(path: str | Path | None = None, overrides: Sequence[str] = (), **given: Any) -> dict[str, Any]:
    """Return the keys and values of ``path``, then ``overrides``, then ``given``; the later ones win.

    Raises:
        ValueError: the file cannot be read, or an override is not KEY=VALUE.
    """
    data = read_yaml(path) if path else {}
    for item in overrides:
        _set(data, item)
    return data | {key: value for key, value in given.items() if value is not None}


def validate(cls: type[ConfigT], data: dict[str, Any]) -> ConfigT:
    """Return the config of these keys.

    Raises:
        ValueError: naming each key, its value and what was expected.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(cls, error))) from None


def renamed(key: str, cls: type[BaseModel]) -> str:
    """Return the present name of a key of earlier versions: max_pictures is max_images today, and so on."""
    new = key.replace("picture", "image")
    return new if key not in cls.model_fields and new in cls.model_fields else key


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file (a path or a URI).

    Raises:
        ValueError: it cannot be read or is not a mapping.
    """
    from visvm import storage  # most commands read no YAML file

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


def parse_options(value: Any) -> Any:
    """Return the mapping that "KEY=VALUE,KEY=VALUE" stands for; other values as they are."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item]
    if any(not key or not equals for key, equals, _ in pairs):
        raise ValueError("expected KEY=VALUE, or several with commas between them")
    return {key.strip(): yaml.safe_load(text) for key, _, text in pairs}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the nearest of ``known``, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(cls: type[BaseModel], error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        *section, key = map(str, problem["loc"]) if problem["loc"] else ("config",)
        what = problem["msg"]
        if problem["type"] == "extra_forbidden":
            what = "unknown key" + did_you_mean(key, _keys(cls, section))
        lines.append(f"{'.'.join([*section, key])} = {problem['input']!r}: {what}")
    return lines


def _keys(cls: type[BaseModel], section: Sequence[str]) -> list[str]:
    """Return the keys of a section of a config."""
    for name in section:
        field = cls.model_fields.get(name)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        cls = inner
    return [field.alias or name for name, field in cls.model_fields.items()]
