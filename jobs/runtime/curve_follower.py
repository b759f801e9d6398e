"""Progress of training: the newest entry of the workers' curve, as their logs stay on their machines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from visvm.training.curve import read_curve

SECONDS_BETWEEN_REPORTS = 10.0
UNTOLD = ("step", "num_steps", "epoch")
logger = logging.getLogger(__name__)


@contextmanager
def following_curve(path: str) -> Iterator[None]:
    """Report the newest entry of the curve at ``path`` while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: str, done: threading.Event) -> None:
    report, seen = CurveReport(), None
    while not done.wait(SECONDS_BETWEEN_REPORTS):
        entries = [entry for entry in read_curve(path) if "num_steps" in entry]
        if entries and entries[-1] != seen:
            seen = entries[-1]
            report(seen)
    report.bar.close()


class CurveReport:
    """Show entries of a curve: step k/N, its numbers, time left; a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self.bar = tqdm(desc="training", unit="step", disable=None, leave=False)
        self.first: tuple[int, float] | None = None

    def __call__(self, entry: dict[str, Any]) -> None:
        """Show one entry."""
        step, num_steps, now = entry["step"], entry["num_steps"], time.monotonic()
        values = {key: f"{value:.4g}" for key, value in entry.items() if key not in UNTOLD}
        self.first = self.first or (step, now)
        if not self.bar.disable:
            self.bar.total = num_steps
            self.bar.set_postfix(values, refresh=False)
            self.bar.update(step - self.bar.n)
            return
        since, rest = step - self.first[0], num_steps - step
        left = f", {rest * (now - self.first[1]) / since:.0f} s left" if since else ""
        told = ", ".join(f"{key} {value}" for key, value in values.items())
        logger.info("training: step %d/%d, %s%s", step, num_steps, told, left)
