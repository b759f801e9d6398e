"""What to do when a replica dies or is not there: captions and scores are pure, so ask again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from visvm.search.live import EngineFailed

Answer = TypeVar("Answer")
LOST = (RayError, RayServeException, EngineFailed)
LONGEST_WAIT = 1.0  # seconds between two tries
RETRY_AFTER = 5  # seconds, told to clients


def is_lost(error: BaseException) -> bool:
    """Whether a call failed because of the replica it went to, not because of what it asked."""
    is_own = isinstance(error, RayTaskError) and not isinstance(error, EngineFailed)
    return isinstance(error, LOST) and not is_own


async def persist(call: Callable[[], Awaitable[Answer]], *, num_tries: int) -> Answer:
    """The answer of ``call``, which is tried so often if its replica is lost."""
    for attempt in range(num_tries - 1):
        try:
            return await call()
        except LOST as error:
            if not is_lost(error):
                raise
        await asyncio.sleep(min(LONGEST_WAIT, 0.05 * 2**attempt))
    return await call()
