"""Progress of a job: a live bar on a terminal, sparse lines elsewhere."""

from __future__ import annotations

import logging
import time

from tqdm import tqdm

FIRST_REPORT, LONGEST_WAIT = 5.0, 60.0  # seconds between lines: they grow sparser as a job goes on
logger = logging.getLogger(__name__)


class Progress:
    """Report how many units of a job are done, how many failed, and how long the rest will take."""

    def __init__(self, name: str, *, total: int, done: int) -> None:
        self.name, self.total, self.done, self.skipped = name, total, done, done
        self.num_errors = 0
        self.started = self.reported = time.monotonic()
        self.wait = FIRST_REPORT
        self.bar = tqdm(total=total, initial=done, desc=name, unit="image", disable=None, leave=False)
        if done:
            logger.info("%s: resuming after %d of %d", name, done, total)

    def add(self, num: int, *, num_errors: int) -> None:
        """Count ``num`` more units, ``num_errors`` of them failed."""
        self.done += num
        self.num_errors += num_errors
        self.bar.set_postfix(failed=self.num_errors, refresh=False)
        self.bar.update(num)
        now = time.monotonic()
        if self.done >= self.total:
            self.bar.close()
            self._report(now)
        elif self.bar.disable and now - self.reported > self.wait:
            self.wait = min(LONGEST_WAIT, 1.5 * self.wait)
            self._report(now)

    def _report(self, now: float) -> None:
        self.reported = now
        rate = (self.done - self.skipped) / max(now - self.started, 1e-9)
        message = "%s: %d of %d, %d failed, %.2g a second, %.0f s left"
        left = (self.total - self.done) / rate
        logger.info(message, self.name, self.done, self.total, self.num_errors, rate, left)
