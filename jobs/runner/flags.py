"""The flags of a verb: one for each field of its config, required ones first, grouped by config class."""

from __future__ import annotations

import argparse
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic.fields import FieldInfo

from visvm.config import Config, did_you_mean, gather, renamed, validate

ConfigT = TypeVar("ConfigT", bound=Config)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest known flag, and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit."""
        if found := re.search(r"unrecognized arguments: (\S+)", message):
            flag = found[1].partition("=")[0]
            message = f"unknown flag {flag}{did_you_mean(flag, self._option_string_actions)}"
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def parse(
    config_class: type[ConfigT], argv: Sequence[str] | None, *, doc: str, verb: str = "VERB"
) -> ConfigT:
    """Return the config from ``--config``, ``--set`` and one flag per field.

    Raises:
        ValueError: a required flag is missing, or a value is impossible.
    """
    return parse_all(config_class, argv, doc=doc, verb=verb)[0]


def parse_all(
    config_class: type[ConfigT], argv: Sequence[str] | None, *, doc: str, verb: str
) -> tuple[ConfigT, bool]:
    """Return the config, and whether it is to be printed."""
    given = vars(make_parser(config_class, doc, verb).parse_args(_current_flags(config_class, argv)))
    path, overrides, is_printed = given.pop("config"), given.pop("set"), given.pop("print_config")
    given = {name: None if value == [] else value for name, value in given.items()}  # no argument given
    data = gather(path, overrides, **given)
    _check_required(config_class, data)
    return validate(config_class, data), is_printed


def make_parser(config_class: type[Config], doc: str, verb: str) -> Parser:
    """Return the parser of a verb."""
    known = config_class.model_fields.items()
    needed = " ".join(_flag_name(name, field) + " ..." for name, field in known if field.is_required())
    parser = Parser(
        prog=f"visvm {verb}",
        usage=" ".join(filter(None, [f"visvm {verb}", needed, "[flags]"])),
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    for title, fields in _groups(config_class):
        group = parser.add_argument_group(title)
        for name, field in fields:
            group.add_argument(_flag_name(name, field), **_options(field))
    common = parser.add_argument_group("every verb")
    common.add_argument("-h", "--help", action="help", help="print this and exit")
    common.add_argument("--config", help="YAML file with any of the keys above")
    common.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key")
    common.add_argument("--print-config", action="store_true", help="print the resolved config")
    return parser


def _groups(config_class: type[Config]) -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    """Yield the required fields, then those of each config class, the most derived first."""
    fields = config_class.model_fields
    yield "required", [(name, field) for name, field in fields.items() if field.is_required()]
    seen = {name for name, field in fields.items() if field.is_required()}
    for kind in config_class.__mro__:
        own = [name for name in getattr(kind, "__annotations__", {}) if name in fields and name not in seen]
        seen.update(own)
        if own:
            yield _title(kind), [(name, fields[name]) for name in own]


def _title(kind: type) -> str:
    first = (kind.__doc__ or kind.__name__).strip().splitlines()[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _is_positional(field: FieldInfo) -> bool:
    """Return whether a field is an argument without a flag: marked by json_schema_extra."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def _flag_name(name: str, field: FieldInfo) -> str:
    if _is_positional(field):
        return name
    return "--" + (field.alias or name).replace("_", "-")


def _options(field: FieldInfo) -> dict[str, Any]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = "" if default is None else f" (default: {default})"
    text = ((field.description or "") + shown).replace("%", "%%")
    options: dict[str, Any] = {"help": text, "default": None}
    kinds = {typing.get_origin(kind) or kind for kind in _members(field.annotation)}
    if bool in kinds:
        return options | {"action": argparse.BooleanOptionalAction}
    if _is_positional(field):
        return {"help": text, "nargs": "*" if kinds & {list, tuple} else "?"}
    metavar = {int: "N", float: "X"}.get(next(iter(kinds - {type(None)}), str), "TEXT")
    if kinds & {list, tuple}:
        return options | {"nargs": "+", "action": "extend", "metavar": metavar}
    return options | {"metavar": metavar}


def _members(annotation: Any) -> tuple[Any, ...]:
    args = typing.get_args(annotation)
    is_union = args and typing.get_origin(annotation) not in (list, tuple, dict, typing.Literal)
    return args if is_union else (annotation,)


def _check_required(config_class: type[Config], data: Mapping[str, Any]) -> None:
    """Name the required flags that no flag, override or file gives."""
    known = {renamed(name, config_class) for name in data}
    missing = [
        f"{_flag_name(name, field)} ({field.description})"
        for name, field in config_class.model_fields.items()
        if field.is_required() and not {name, field.alias} & known
    ]
    if missing:
        raise ValueError(f"missing {' and '.join(missing)}")


def _current_flags(config_class: type[Config], argv: Sequence[str] | None) -> list[str]:
    """Return the arguments, with flags of earlier versions under their present names."""
    return [_current_flag(config_class, word) for word in (sys.argv[1:] if argv is None else argv)]


def _current_flag(config_class: type[Config], word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    present = renamed(name, config_class)
    return word if present == name else "--" + present.replace("_", "-") + equals + value
