"""The command line every job shares: a flag for each field of its config, and a run folder.

A job is a config class and a function ``work(config) -> metrics``; ``run`` does the rest.
"""

from __future__ import annotations

import argparse
import errno
import logging
import signal
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import yaml

from jobs.runner import logs
from jobs.runner.run_folder import RunFolder
from visvm.config import Config, load

ConfigT = TypeVar("ConfigT", bound=Config)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)


def run(
    config_class: type[ConfigT],
    work: Callable[[ConfigT], dict[str, Any]],
    argv: Sequence[str] | None = None,
    *,
    doc: str,
) -> int:
    """Parse ``argv``, print and save the resolved config, do the work; the exit status.

    0 done (or found done), 1 failed, 2 bad usage: one clear line, before any work starts. A config
    with an ``out`` field gets a run folder: config.yaml, metrics.json and, last, manifest.json.
    With VISVM_LOG=json the log is JSON, a line each.
    """
    try:
        logs.setup()
        config = parse(config_class, argv, doc=doc)
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="", flush=True)
        with interruptible(), RunFolder.of(config) as folder:
            if folder.complete:
                logger.info("%s is complete already; nothing to do", folder.path)
                return 0
            folder.finish(work(config))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            print(f"failed: {error}: make room and run the same command again to go on", file=sys.stderr)
        else:
            logger.exception("the job failed; run the same command again to go on from what is written")
        return 1
    return 0


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM (`ray job stop`, a node that goes away) ends the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except SystemExit:  # Ray puts a handler of its own in the place of ours
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def parse(config_class: type[ConfigT], argv: Sequence[str] | None, *, doc: str) -> ConfigT:
    """The config from ``--config``, ``--set`` and one flag for each top-level field."""
    parser = _parser(config_class, doc)
    given = vars(parser.parse_args(argv))
    path, overrides = given.pop("config"), given.pop("set")
    return load(config_class, path, overrides, **given)


def _parser(config_class: type[Config], doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", help="YAML file with any of the keys below")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override one key")
    for name, field in config_class.model_fields.items():
        name = field.alias or name
        parser.add_argument("--" + name.replace("_", "-"), **_flag(field))
    return parser


def _flag(field: Any) -> dict[str, Any]:
    default = "" if field.is_required() else f" (default: {field.get_default(call_default_factory=True)})"
    flag: dict[str, Any] = {"help": ((field.description or "") + default).replace("%", "%%"), "default": None}
    kinds = {typing.get_origin(kind) or kind for kind in _members(field.annotation)}
    if kinds & {list, tuple}:
        return flag | {"nargs": "+", "action": "extend"}
    if bool in kinds:
        return flag | {"action": argparse.BooleanOptionalAction}
    return flag


def _members(annotation: Any) -> tuple[Any, ...]:
    args = typing.get_args(annotation)
    is_union = args and typing.get_origin(annotation) not in (list, tuple, dict, typing.Literal)
    return args if is_union else (annotation,)
