"""Progress of a job, in lines."""

from __future__ import annotations

import logging
import time

SECONDS_BETWEEN_REPORTS = 5.0
logger = logging.getLogger(__name__)


class Progress:
    """Says every few seconds how far a job is, and how long the rest will take."""

    def __init__(self, name: str, *, total: int, done: int) -> None:
        self.name, self.total, self.done, self.skipped = name, total, done, done
        self.num_errors = 0
        self.started = self.reported = time.monotonic()
        if done:
            logger.info("%s: going on after %d of %d", name, done, total)

    def add(self, num: int, *, num_errors: int) -> None:
        """Count ``num`` more units, ``num_errors`` of them failed."""
        self.done += num
        self.num_errors += num_errors
        now = time.monotonic()
        if now - self.reported > SECONDS_BETWEEN_REPORTS or self.done == self.total:
            self.reported = now
            rate = (self.done - self.skipped) / (now - self.started)
            rest = (self.total - self.done) / rate
            message = "%s: %d of %d, %d failed, %.2g a second, %.0f s left"
            logger.info(message, self.name, self.done, self.total, self.num_errors, rate, rest)
