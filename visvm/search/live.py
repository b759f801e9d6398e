"""Captions for requests that come and go at any time: a ``Tower`` in a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from visvm.records import Policy
from visvm.search.flight import Flight, Tower

logger = logging.getLogger(__name__)


class EngineFailed(RuntimeError):
    """The engine is of no more use; the same request on another one gives the same caption."""


class LiveTower:
    """What a ``Tower`` does, from any thread and at once; flights' calls come from the tower's thread.

    All that touches the policy happens in that thread, in the order in which it was asked for.
    """

    def __init__(self, policy: Policy) -> None:
        self.tower: Tower[Any] = Tower(policy)
        self.error: Exception | None = None
        self._orders: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._busy_since: float | None = None  # None while it has nothing to do
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def add(self, flight: Flight[Any]) -> None:
        """Open it as soon as there is room."""
        self._orders.put(partial(self.tower.add, flight))

    def answer(self, flight: Flight[Any], answers: list[list[float]]) -> None:
        """The scores that a flight asked for."""
        self._orders.put(partial(self.tower.answer, flight, answers))

    def fail(self, flight: Flight[Any], error: Exception) -> None:
        """End a flight by an error."""
        self._orders.put(partial(self.tower.fail, flight, error))

    def cancel(self, flight: Flight[Any]) -> None:
        """Give a flight up, with its rows and its place; it will not land."""
        self._orders.put(partial(self.tower.cancel, flight))

    def close(self) -> None:
        """End the thread, and give up all that is not done."""
        self._orders.put(None)
        self._thread.join()

    def check(self, patience: float) -> None:
        """Look that the thread is well, and that no turn of it has lasted above ``patience`` seconds.

        Raises:
            EngineFailed: it is not.
        """
        if self.error is not None or not self._thread.is_alive():
            raise EngineFailed(f"the engine failed: {type(self.error).__name__}")
        since = self._busy_since
        if since is not None and time.monotonic() - since > patience:
            raise EngineFailed(f"the engine has been stuck for more than {patience:g} seconds")

    def _run(self) -> None:
        try:
            while self._follow_orders(wait=not self.tower.turn()):
                pass
        except Exception as error:
            logger.exception("the engine failed")
            self.error = error
            self._give_up()
        self.tower.close()

    def _give_up(self) -> None:
        """Tell all flights, and those still to come."""
        is_open = True
        while is_open:
            for flight in [*self.tower.queue, *self.tower.flights]:
                self.tower.fail(flight, EngineFailed("the engine failed"))
            is_open = self._follow_orders(wait=True)

    def _follow_orders(self, *, wait: bool) -> bool:
        """Do all that was asked for meanwhile, or what is asked for next; False at the end."""
        while wait or not self._orders.empty():
            self._busy_since = None if wait else self._busy_since
            order = self._orders.get()
            if order is None:
                return False
            order()
            wait = False
        self._busy_since = time.monotonic()
        return True
