"""Retries when a replica dies or is missing: captions and scores are deterministic, so they can be redone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from visvm.chat import ChatError
from visvm.search.scheduler_thread import EngineFailed

Answer = TypeVar("Answer")
LOST = (RayError, RayServeException, EngineFailed)
LONGEST_WAIT = 1.0  # seconds between two attempts
RETRY_AFTER = 5  # seconds, told to clients
logger = logging.getLogger(__name__)


def is_lost(error: BaseException) -> bool:
    """Return whether a call failed because its replica was lost, not because of what was asked."""
    is_own = isinstance(error, RayTaskError) and not isinstance(error, EngineFailed)
    return isinstance(error, LOST) and not is_own


async def persist(call: Callable[[], Awaitable[Answer]], *, num_tries: int) -> Answer:
    """Return the answer of ``call``, attempted up to ``num_tries`` times while its replica is lost."""
    for attempt in range(num_tries - 1):
        try:
            return await call()
        except LOST as error:
            if not is_lost(error):
                raise
        await asyncio.sleep(min(LONGEST_WAIT, 0.05 * 2**attempt))
    return await call()


def refusal(error: Exception) -> ChatError:
    """Return the error that a client gets for a failed search; a ``ChatError`` is returned as it is."""
    if isinstance(error, ChatError):
        return error
    if is_lost(error):
        return ChatError(503, "the models are not available at the moment", retry_after=RETRY_AFTER)
    if isinstance(error, ValueError) and not isinstance(error, RayTaskError):
        return ChatError(400, f"this request cannot be served: {error}")
    logger.error("a search failed: %s", type(error).__name__)
    return ChatError(500, f"the search failed: {type(error).__name__}")
