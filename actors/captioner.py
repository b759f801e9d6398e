"""The policy in service: many requests' captions at a time, each told as it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actors.lost import refusal
from actors.scoring import RemoteScorer
from visvm.chat import ChatError, Event, Order, Step, Written, search_of
from visvm.images import decode
from visvm.records import Caption, Picture, Question, Request, TraceStep
from visvm.search import METHODS
from visvm.search.draft import SideBySide
from visvm.search.flight import Flight, ignore
from visvm.search.live import EngineFailed, LiveTower

if TYPE_CHECKING:
    from visvm.policy import SharedPrefixPolicy


class Captioner:
    """Writes the captions of orders over one policy; ``scorers`` by what a method needs."""

    def __init__(
        self, policy: SharedPrefixPolicy, scorers: Mapping[str, RemoteScorer], *, max_pixels: int
    ) -> None:
        self.policy, self.scorers, self.max_pixels = policy, scorers, max_pixels
        self.live = LiveTower(policy)

    async def write(self, order: Order, data: bytes, *, follow: bool) -> AsyncIterator[Event]:
        """Each caption of an order once it is written; to ``follow``, each sentence as it is chosen too.

        A picture or search that fails ends in a ``ChatError``. Closed early, all its rows are free.

        Raises:
            EngineFailed: another replica has to do it.
        """
        try:
            picture = await asyncio.to_thread(self._decode, data)
        except ValueError as error:
            yield ChatError(400, str(error), param="messages", code="invalid_image")
            return
        errand = Errand(order, data, self, picture=picture, follow=follow)
        try:
            async for event in errand.events():
                yield event
        finally:
            errand.give_up()

    def usage(self) -> dict[str, int]:
        """What is in use now: rows, those that wait for one, pictures, and captions in flight."""
        decoder, tower = self.policy.decoder, self.live.tower
        return {
            "rows": len(decoder.live),
            "rows_waiting": len(decoder.waiting),
            "pictures": self.policy.engine.pictures.num_used,
            "captions": len(tower.flights),
            "captions_waiting": len(tower.queue),
        }

    def _decode(self, data: bytes) -> Picture:
        return decode(data, id="picture", uri="the picture", max_pixels=self.max_pixels)


class Errand:
    """One order being carried out: its flights, and the way from the engine's thread to the event loop."""

    def __init__(
        self, order: Order, data: bytes, captioner: Captioner, *, picture: Picture, follow: bool
    ) -> None:
        self.order, self.data, self.follow, self.live = order, data, follow, captioner.live
        self.scorer = captioner.scorers.get(METHODS[order.method].needs)
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()
        self.started = time.perf_counter()
        search: Any = search_of(order)
        self.flights = [
            self._flight(i, Request(picture, order.prompt, seed, order.max_tokens), search)
            for i, seed in enumerate(order.seeds)
        ]

    def _flight(self, index: int, request: Request, search: SideBySide) -> Flight[Caption]:
        def tell(text: str, step: TraceStep | None) -> None:
            self._post(Step(index, text, step.row() if step and self.order.trace else None))

        def land(flight: Flight[Caption]) -> None:
            self._post(self._outcome(index, flight))

        return Flight(request, search.write, self._ask, land, tell if self.follow else ignore)

    def _outcome(self, index: int, flight: Flight[Caption]) -> Event | Exception:
        if flight.result is None:
            assert flight.error is not None
            # Its frames hold the branch, and with it the picture's place.
            return flight.error.with_traceback(None)
        flight.result.cost.seconds = time.perf_counter() - self.started
        return Written.of(index, flight.result, trace=self.order.trace)

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until all captions are there or one has failed."""
        for flight in self.flights:
            self.live.add(flight)
        num_left = len(self.flights)
        while num_left:
            event = await self.queue.get()
            if isinstance(event, EngineFailed):
                raise event
            yield event if not isinstance(event, Exception) else refusal(event)
            num_left -= isinstance(event, Written)
            if isinstance(event, Exception):
                return

    def give_up(self) -> None:
        """Free all that is still in use."""
        for flight in self.flights:
            self.live.cancel(flight)
        for task in self.tasks:
            task.cancel()

    def _post(self, event: Event | Exception) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, event)

    def _ask(self, flight: Flight[Caption], questions: Sequence[Question]) -> None:
        self.loop.call_soon_threadsafe(self._send, flight, questions)

    def _send(self, flight: Flight[Caption], questions: Sequence[Question]) -> None:
        task = self.loop.create_task(self._score(flight, questions))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _score(self, flight: Flight[Caption], questions: Sequence[Question]) -> None:
        assert self.scorer is not None, "this search needs a scorer"
        try:
            self.live.answer(flight, await self.scorer.score(questions, self.data))
        except Exception as error:
            self.live.fail(flight, error)
