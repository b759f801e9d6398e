"""The policy as a service: captions of many requests at a time, each streamed as it is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, cast

from actors.serving.remote_scorer import RemoteScorer
from actors.serving.retry import refusal
from visvm.chat import AnswerText, CaptionResult, CaptionSpec, ChatError, Event, Step, search_of
from visvm.images import decode
from visvm.records import Caption, DecodedImage, Question, Request, Scorer, TraceStep
from visvm.search import SentenceSearch, find_method
from visvm.search.scheduler import SearchTask, head_of, ignore
from visvm.search.scheduler_thread import EngineFailed, SchedulerThread

if TYPE_CHECKING:
    from visvm.loading import AnyPolicy


class CaptionWriter:
    """Write the captions of many requests with one policy.

    ``scorers`` are keyed by what a search method needs ("reward", "value", ...): remote ones, or some of this
    process (heads on the policy's states, a value model), which answer at once in the engine's thread.
    """

    def __init__(
        self, policy: AnyPolicy, scorers: Mapping[str, RemoteScorer | Scorer], *, max_pixels: int
    ) -> None:
        self.policy, self.scorers, self.max_pixels = policy, scorers, max_pixels
        self.engine_thread = SchedulerThread(policy)

    async def write(self, spec: CaptionSpec, data: bytes, *, follow: bool) -> AsyncIterator[Event]:
        """Yield each caption of a request when it is done; with ``follow``, each sentence when chosen too.

        If the image cannot be used or the search fails, the last event is a ``ChatError``. Closing the
        generator early frees the request's rows and image.

        Raises:
            EngineFailed: the engine of this replica has failed; another replica has to write the captions.
        """
        try:
            image = await asyncio.to_thread(self._decode, data)
        except ValueError as error:
            yield ChatError(400, str(error), param="messages", code="invalid_image")
            return
        stream = CaptionStream(spec, data, self, image=image, follow=follow)
        try:
            async for event in stream.events():
                yield event
        finally:
            stream.give_up()

    def usage(self) -> dict[str, int]:
        """Return what is in use now: of the policy, and captions in flight and waiting."""
        scheduler = self.engine_thread.scheduler
        return {
            **self.policy.usage(),
            "captions": len(scheduler.tasks),
            "captions_waiting": len(scheduler.queue),
        }

    def _decode(self, data: bytes) -> DecodedImage:
        return decode(data, id="image", uri="the image", max_pixels=self.max_pixels)


class CaptionStream:
    """The captions of one request: runs search tasks on the engine thread, gives their events to asyncio."""

    def __init__(
        self, spec: CaptionSpec, data: bytes, writer: CaptionWriter, *, image: DecodedImage, follow: bool
    ) -> None:
        self.spec, self.data, self.follow, self.engine_thread = spec, data, follow, writer.engine_thread
        self.scorer = writer.scorers.get(find_method(spec.method).needs)
        self.judge = writer.scorers.get("reward")
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self.scoring: set[asyncio.Task[None]] = set()
        self.started = time.perf_counter()
        search = search_of(spec)
        given = (spec.max_tokens, spec.start, spec.stop, spec.search.unit)
        self.tasks = [
            self._task(i, Request(image, spec.prompt, seed, *given), search)
            for i, seed in enumerate(spec.seeds)
        ]

    def _task(self, index: int, request: Request, search: SentenceSearch) -> SearchTask[Caption]:
        answer = AnswerText(request)

        def on_step(text: str, step: TraceStep | None) -> None:
            self._post(Step(index, answer.feed(text), step.row() if step and self.spec.trace else None))

        def on_done(task: SearchTask[Caption]) -> None:
            outcome = self._outcome(index, task)
            if answer.text and isinstance(outcome, CaptionResult):
                self._post(Step(index, outcome.text[answer.num_sent :], None))
            self._post(outcome)

        given = (self._ask, on_done, on_step if self.follow else ignore, head_of(self.scorer))
        return SearchTask(request, search.write, *given)

    def _outcome(self, index: int, task: SearchTask[Caption]) -> Event | Exception:
        if task.result is None:
            assert task.error is not None
            # The traceback's frames would keep the branch alive, and with it the image's slot.
            return task.error.with_traceback(None)
        task.result.cost.seconds = time.perf_counter() - self.started
        return CaptionResult.of(index, task.result, trace=self.spec.trace)

    async def events(self) -> AsyncIterator[Event]:
        """Yield events until all captions are done or one has failed."""
        for task in self.tasks:
            self.engine_thread.add(task)
        num_left = len(self.tasks)
        while num_left:
            event = await self.queue.get()
            if isinstance(event, EngineFailed):
                raise event
            yield event if not isinstance(event, Exception) else refusal(event)
            num_left -= isinstance(event, CaptionResult)
            if isinstance(event, Exception):
                return

    def give_up(self) -> None:
        """Cancel what is still running, and free what it holds."""
        for task in self.tasks:
            self.engine_thread.cancel(task)
        for scoring in self.scoring:
            scoring.cancel()

    def _post(self, event: Event | Exception) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, event)

    def _ask(self, task: SearchTask[Caption], questions: Sequence[Question]) -> None:
        scorer = self._scorer_of(questions)
        if scorer is None or iscoroutinefunction(scorer.score):
            self.loop.call_soon_threadsafe(self._send, task, questions)
            return
        scheduler = self.engine_thread.scheduler
        try:
            scheduler.answer(task, cast(Scorer, scorer).score(questions))
        except Exception as error:
            scheduler.fail(task, error)

    def _scorer_of(self, questions: Sequence[Question]) -> RemoteScorer | Scorer | None:
        return self.judge if questions[0].asks_reward else self.scorer

    def _send(self, task: SearchTask[Caption], questions: Sequence[Question]) -> None:
        scoring = self.loop.create_task(self._score(task, questions))
        self.scoring.add(scoring)
        scoring.add_done_callback(self.scoring.discard)

    async def _score(self, task: SearchTask[Caption], questions: Sequence[Question]) -> None:
        try:
            scorer = cast("RemoteScorer | None", self._scorer_of(questions))
            if scorer is None:
                raise ValueError("this search asks for scores and has no scorer: set its `needs`")
            self.engine_thread.answer(task, await scorer.score(questions, self.data))
        except Exception as error:
            self.engine_thread.fail(task, error)
