"""A ``Scheduler`` in a thread of its own, for requests that arrive and are cancelled at any time."""

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
    """The engine can no longer be used; the same request to another engine gives the same caption."""


class SchedulerThread:
    """Drive a ``Scheduler`` from any thread. Methods return at once; tasks' callbacks run in its thread.

    Only that thread touches the policy, and it executes commands in the order in which they were given.
    """

    def __init__(self, policy: Policy) -> None:
        self.scheduler: Scheduler[Any] = Scheduler(policy)
        self.error: Exception | None = None
        self._commands: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._busy_since: float | None = None  # None while idle
        self._stalled_since: float | None = None  # None unless tasks wait though none runs
        self._thread = Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def add(self, task: SearchTask[Any]) -> None:
        """Queue a task; it is opened as soon as the policy has a free image slot."""
        self._commands.put(partial(self.scheduler.add, task))

    def answer(self, task: SearchTask[Any], answers: list[list[float]]) -> None:
        """Give a task the scores it asked for."""
        self._commands.put(partial(self.scheduler.answer, task, answers))

    def fail(self, task: SearchTask[Any], error: Exception) -> None:
        """End a task with an error."""
        self._commands.put(partial(self.scheduler.fail, task, error))

    def cancel(self, task: SearchTask[Any]) -> None:
        """Drop a task, its rows and its image slot; its ``on_done`` is not called."""
        self._commands.put(partial(self.scheduler.cancel, task))

    def close(self) -> None:
        """Stop the thread and drop every unfinished task."""
        self._commands.put(None)
        self._thread.join()

    def check(self, max_seconds: float) -> None:
        """Check that the thread is alive and, within ``max_seconds``, ends its turns and opens what waits.

        Raises:
            EngineFailed: the thread has failed, or is stuck.
        """
        if self.error is not None or not self._thread.is_alive():
            raise EngineFailed(f"the engine failed: {type(self.error).__name__}")
        for since in (self._busy_since, self._stalled_since):
            if since is not None and time.monotonic() - since > max_seconds:
                raise EngineFailed(f"the engine has been stuck for more than {max_seconds:g} seconds")

    def _run(self) -> None:
        try:
            while self._run_commands(wait=not self._turn()):
                pass
        except Exception as error:
            logger.exception("the engine failed")
            self.error = error
            self._fail_all()
        self.scheduler.close()

    def _turn(self) -> bool:
        is_useful = self.scheduler.turn()
        is_stalled = not is_useful and self.scheduler.queue and not self.scheduler.tasks
        self._stalled_since = (self._stalled_since or time.monotonic()) if is_stalled else None
        return is_useful

    def _fail_all(self) -> None:
        """Fail all tasks, and those still to come, until ``close``."""
        is_open = True
        while is_open:
            for task in [*self.scheduler.queue, *self.scheduler.tasks]:
                self.scheduler.fail(task, EngineFailed("the engine failed"))
            is_open = self._run_commands(wait=True)

    def _run_commands(self, *, wait: bool) -> bool:
        """Execute the queued commands, or wait for the next one; return False once closed."""
        while wait or not self._commands.empty():
            self._busy_since = None if wait else self._busy_since
            command = self._commands.get()
            if command is None:
                return False
            command()
            wait = False
        self._busy_since = time.monotonic()
        return True
