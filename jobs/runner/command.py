"""The command line that every job shares: flags from its config, a run folder, and how it ends.

A job is a config class and a function ``work(config) -> metrics``; ``run`` does the rest.
"""

from __future__ import annotations

import errno
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import yaml

from jobs.runner import hub, logs
from jobs.runner.flags import parse, parse_all
from jobs.runner.run_folder import RunFolder
from visvm.config import Config

__all__ = ["Refused", "parse", "run"]

ConfigT = TypeVar("ConfigT", bound=Config)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130
AGAIN = "run the same command again to resume"
logger = logging.getLogger(__name__)


class Refused(Exception):
    """A negative result that was asked for: one line, no traceback, and the status of a failure."""


def run(
    config_class: type[ConfigT],
    work: Callable[[ConfigT], dict[str, Any]],
    argv: Sequence[str] | None = None,
    *,
    doc: str,
    next_command: Callable[[ConfigT], str] | None = None,
) -> int:
    """Parse ``argv``, do the work in its run folder, and return the exit status.

    0 done (or found done), 1 failed or ``Refused``, 2 bad usage (one line, before any work starts), 130
    interrupted.
    A config with an ``out`` field gets a run folder: config.yaml, metrics.json and, last, manifest.json.
    A run that finished is not done again, unless its config has ``inputs()`` and they have changed.
    At the end the result's path and ``next_command`` are printed. With VISVM_LOG=json logs are JSON lines.
    """
    config: ConfigT | None = None
    try:
        logs.setup()
        config, is_printed = parse_all(config_class, argv, doc=doc, verb=verb_of(work))
        if is_printed:
            print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), end="", flush=True)
        publish = config.push_to_hub if isinstance(config, hub.HubOptions) else None
        if publish:
            hub.check_login(publish)
        with interruptible(), RunFolder.of(config) as folder:
            if folder.is_done():
                logger.info("%s is complete already; nothing to do", folder.path)
            else:
                folder.finish(work(config))
            if publish and folder.path:
                print(f"hub:    {hub.push(folder.path, publish)}", flush=True)
        _close(folder, next_command(config) if next_command else None)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        out = getattr(config, "out", None)
        print(f"interrupted; {AGAIN} {out}" if out else "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:
        return _fail(error)
    return DONE


def verb_of(work: Callable[..., Any]) -> str:
    """Return the verb of a job's function by its file: "caption", or "world make" for ``world.make``."""
    module = work.__module__
    if module == "__main__" and (spec := sys.modules["__main__"].__spec__):
        module = spec.name
    verb = module.rpartition(".")[2].rstrip("_").replace("_", "-")
    return verb if work.__name__ == "work" else f"{verb} {work.__name__.replace('_', '-')}"


def _close(folder: RunFolder, next_command: str | None) -> None:
    """Say where the result is, and what to run next."""
    if folder.path is not None:
        print(f"result: {folder.path}", flush=True)
        if next_command:
            print(f"next:   {next_command}", flush=True)


def _fail(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        print(f"failed: {error}: make room, then {AGAIN}", file=sys.stderr)
    else:
        logger.exception("the job failed; %s", AGAIN)
    return FAILED


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`, a node that goes away) end the block as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except SystemExit:  # Ray replaces our handler by its own
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
