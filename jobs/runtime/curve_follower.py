"""Progress of workers whose logs stay on their machines: the newest line of a curve, every few seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from visvm.training.curve import read_curve

SECONDS_BETWEEN_REPORTS = 10.0
logger = logging.getLogger(__name__)


@contextmanager
def following_curve(path: str) -> Iterator[None]:
    """Log the newest entry of the curve at ``path`` while the block runs."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(path, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(path: str, done: threading.Event) -> None:
    seen = None
    while not done.wait(SECONDS_BETWEEN_REPORTS):
        entries = [entry for entry in read_curve(path) if "held_out" not in entry]
        if entries and entries[-1] != seen:
            seen = entries[-1]
            values = ", ".join(f"{key} {value:.4g}" for key, value in seen.items())
            logger.info("training: %s", values)
