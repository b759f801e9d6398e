"""Chat requests from the body to the events of their captions: admission, fetching, writing, retries."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from actors.serving.http_metrics import HttpMetrics
from actors.serving.retry import LOST, RETRY_AFTER, is_lost, refusal
from visvm.chat import CaptionResult, CaptionSpec, ChatError, ChatLimits, ChatRequest, Event, Step, read_spec
from visvm.fetch import FetchError, Limits, fetch

Answer = TypeVar("Answer")
WAITS = (0.2, 2.0, 10.0)  # seconds between attempts; a request that kills four replicas is given up
Write = Callable[[CaptionSpec, bytes, bool], AsyncIterator[Event]]


@dataclass(frozen=True)
class Settings:
    """The settings of an ingress: at most ``max_requests`` are in progress, each for at most ``seconds``.

    A body has to arrive within ``body_seconds``.
    """

    policy: str  # its name, for the page
    is_world: bool
    methods: tuple[str, ...]
    limits: ChatLimits
    fetch: Limits
    max_requests: int
    seconds: float
    max_body_bytes: int
    key_hashes: tuple[str, ...] = ()
    calibrated: Mapping[str, Any] = field(default_factory=dict)  # method and options that have a promise
    calibration: Mapping[str, Any] | None = None  # what they report: tau, risk, alpha, num_images
    cors_origins: tuple[str, ...] = ()
    body_seconds: float = 30.0


@dataclass
class ChatService:
    """Serve chat requests with ``write(spec, data, follow)``, which is retried if its replica is lost."""

    write: Write
    settings: Settings
    metrics: HttpMetrics = field(default_factory=HttpMetrics)
    num_requests: int = 0
    waits: tuple[float, ...] = WAITS
    is_open: bool = True

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as in progress while the block runs.

        Raises:
            ChatError: 503, if too many are in progress or the service is stopping.
        """
        if not self.is_open:
            raise ChatError(503, "this server is being stopped", retry_after=RETRY_AFTER, code="stopping")
        if self.num_requests >= self.settings.max_requests:
            raise ChatError(
                503, "too many requests at the moment", retry_after=RETRY_AFTER, code="overloaded"
            )
        self.num_requests += 1
        self.metrics.in_flight.set(self.num_requests)
        try:
            yield
        finally:
            self.num_requests -= 1
            self.metrics.in_flight.set(self.num_requests)

    async def drain(self) -> None:
        """Refuse new requests, and wait for those in progress."""
        self.is_open = False
        while self.num_requests:
            await asyncio.sleep(0.1)

    def read(self, request: ChatRequest) -> CaptionSpec:
        """Return what a request asks for.

        Raises:
            ChatError: it is not served.
        """
        settings = self.settings
        spec = read_spec(request, settings.limits, settings.methods)
        asked = {"method": spec.method, **spec.search.model_dump()}
        is_calibrated = all(asked[name] == value for name, value in settings.calibrated.items())
        if settings.calibration is None or not is_calibrated or spec.search.drop_below is not None:
            return spec
        return spec.calibrated(settings.calibration)

    async def events(self, spec: CaptionSpec, *, follow: bool) -> AsyncGenerator[Step | CaptionResult, None]:
        """Yield the captions of a request; with ``follow``, each sentence too.

        Raises:
            ChatError: the request failed; it has the HTTP status.
        """
        deadline = asyncio.get_running_loop().time() + self.settings.seconds
        try:
            data = await _in_time(fetch(spec.url, self.settings.fetch), deadline)
            async with aclosing(self._persistently(spec, data, follow)) as events:
                # Each event may be awaited by another task, so each needs a timer of its own.
                while event := await _in_time(anext(events, None), deadline):
                    if isinstance(event, CaptionResult):
                        self.metrics.add(event)
                    yield event
        except FetchError as error:
            raise ChatError(error.status, str(error), param="messages", code="invalid_image") from None
        except TimeoutError:
            what = f"not done within {self.settings.seconds:g} seconds"
            raise ChatError(504, what, code="deadline_exceeded") from None

    async def _persistently(
        self, spec: CaptionSpec, data: bytes, follow: bool
    ) -> AsyncGenerator[Step | CaptionResult, None]:
        """Yield events; if a replica is lost, another repeats its work and only new events are yielded."""
        told: dict[int, list[str]] = defaultdict(list)
        for wait in (*self.waits, None):
            seen: dict[int, int] = defaultdict(int)
            try:
                async for event in self.write(spec, data, follow):
                    if isinstance(event, ChatError):
                        raise event
                    if _is_new(event, told[event.index], seen):
                        yield event
                return
            except LOST as error:
                if wait is None or not is_lost(error):
                    raise refusal(error) from None
            await asyncio.sleep(wait or 0)


async def _in_time(answer: Awaitable[Answer], deadline: float) -> Answer:
    async with asyncio.timeout_at(deadline):
        return await answer


def _is_new(event: Step | CaptionResult, told: list[str], seen: dict[int, int]) -> bool:
    """Return whether an event was not sent before; events that were sent must come again unchanged."""
    place = seen[event.index]
    seen[event.index] += 1
    if place == len(told):
        told.append(event.text)
        return True
    if told[place] != event.text:
        raise ChatError(503, "a caption was interrupted and cannot be resumed", retry_after=RETRY_AFTER)
    return False
