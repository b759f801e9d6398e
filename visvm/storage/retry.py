"""Patience with a store that is away for a while."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

SECONDS = 120.0
"""How long an operation is tried again before its error is the caller's."""

FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0
T = TypeVar("T")
logger = logging.getLogger(__name__)
_jitter = random.Random()  # its own: the draws of others stay as they are


class Unreachable(RuntimeError):
    """The store cannot be reached, or asks for patience; nothing is wrong with what was asked of it."""


def patiently(work: Callable[[], T], what: str) -> T:
    """``work()``, tried again with growing delays for SECONDS while it raises ``Unreachable``.

    Raises:
        Unreachable: for longer than that; any other error of ``work`` is raised at once.
    """
    started, delay = time.monotonic(), FIRST_DELAY
    while True:
        try:
            return work()
        except Unreachable as error:
            waited = time.monotonic() - started
            if waited + delay > SECONDS:
                raise
            logger.warning("%s, after %.0f s of %.0f: trying again: %s", what, waited, SECONDS, error)
        time.sleep(delay * _jitter.uniform(0.75, 1.25))
        delay = min(2 * delay, LONGEST_DELAY)
