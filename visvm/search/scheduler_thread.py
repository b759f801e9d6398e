"""Captions for requests that come and go at any time: a ``Scheduler`` in a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any

from visvm.records import Policy
from visvm.search.scheduler import Scheduler, SearchTask

logger = logging.getLogger(__name__)


class EngineFailed(RuntimeError):
    """The engine is of no more use; the same request on another one gives the same caption."""


class SchedulerThread:
    """What a ``Scheduler`` does, from any thread and at once; tasks' calls come from the scheduler's thread.

    All that touches the policy happens in that thread, in the order in which it was asked for.
    """

    def __init__(self, policy: Policy) -> None:
        self.scheduler: Scheduler[Any] = Scheduler(policy)
        self.error: Exception | None = None
        self._commands: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._busy_since: float | None = None  # None while it has nothing to do
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def add(self, task: SearchTask[Any]) -> None:
        """Open it as soon as there is room."""
        self._commands.put(partial(self.scheduler.add, task))

    def answer(self, task: SearchTask[Any], answers: list[list[float]]) -> None:
        """The scores that a task asked for."""
        self._commands.put(partial(self.scheduler.answer, task, answers))

    def fail(self, task: SearchTask[Any], error: Exception) -> None:
        """End a task by an error."""
        self._commands.put(partial(self.scheduler.fail, task, error))

    def cancel(self, task: SearchTask[Any]) -> None:
        """Give a task up, with its rows and its place; it will not land."""
        self._commands.put(partial(self.scheduler.cancel, task))

    def close(self) -> None:
        """End the thread, and give up all that is not done."""
        self._commands.put(None)
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
            while self._run_commands(wait=not self.scheduler.turn()):
                pass
        except Exception as error:
            logger.exception("the engine failed")
            self.error = error
            self._give_up()
        self.scheduler.close()

    def _give_up(self) -> None:
        """Tell all tasks, and those still to come."""
        is_open = True
        while is_open:
            for task in [*self.scheduler.queue, *self.scheduler.tasks]:
                self.scheduler.fail(task, EngineFailed("the engine failed"))
            is_open = self._run_commands(wait=True)

    def _run_commands(self, *, wait: bool) -> bool:
        """Do all that was asked for meanwhile, or what is asked for next; False at the end."""
        while wait or not self._commands.empty():
            self._busy_since = None if wait else self._busy_since
            command = self._commands.get()
            if command is None:
                return False
            command()
            wait = False
        self._busy_since = time.monotonic()
        return True
