"""Retries of operations on a store that is temporarily unavailable."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

SECONDS = 120.0
"""How long an operation is retried before its error is raised."""

FIRST_DELAY, LONGEST_DELAY = 0.25, 8.0
T = TypeVar("T")
logger = logging.getLogger(__name__)
_jitter = random.Random()  # its own generator: seeded draws elsewhere stay reproducible


class Unreachable(RuntimeError):
    """The store cannot be reached or is overloaded; the request itself may be fine."""


def with_retries(work: Callable[[], T], what: str) -> T:
    """Return ``work()``, retried with growing delays for SECONDS while it raises ``Unreachable``.

    ``what`` names the operation in the log. Any other error of ``work`` is raised at once.

    Raises:
        Unreachable: the store stayed unreachable for longer than SECONDS.
    """
    started, delay = time.monotonic(), FIRST_DELAY
    while True:
        try:
            return work()
        except Unreachable as error:
            waited = time.monotonic() - started
            if waited + delay > SECONDS:
                raise
            logger.warning(
                "%s: trying again (%.0f of at most %.0f s have passed): %s", what, waited, SECONDS, error
            )
        time.sleep(delay * _jitter.uniform(0.75, 1.25))
        delay = min(2 * delay, LONGEST_DELAY)
