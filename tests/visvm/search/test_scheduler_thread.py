"""Tasks that arrive and are cancelled at any time: equal results, isolated errors, slots freed at once."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.fakes import FakePolicy, FakeScorer, request, until
from tests.visvm.search.test_scheduler import SlowPolicy
from visvm.models import WORLD
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import Caption, Question, Request
from visvm.search import MCTS, BestOfN, Decode, Stepwise
from visvm.search.scheduler import SearchTask
from visvm.search.scheduler_thread import EngineFailed, SchedulerThread


class Airline:
    """Tasks of a scheduler thread, whose questions a scorer answers in that thread."""

    def __init__(self, policy: Any, score: Callable[[list[Question]], list[list[float]]]) -> None:
        self.live, self.score = SchedulerThread(policy), score

    def book(self, one: Request, search: Any = None, **more: Any) -> tuple[SearchTask, Future[Caption]]:
        """A task on its way, and its caption to come."""
        future: Future[Caption] = Future()

        def on_done(task: SearchTask) -> None:
            if task.error:
                future.set_exception(task.error)
            else:
                future.set_result(task.result)

        task = SearchTask(one, (search or Stepwise()).write, self._ask, on_done, **more)
        self.live.add(task)
        return task, future

    def _ask(self, task: SearchTask, questions: list[Question]) -> None:
        try:
            self.live.answer(task, self.score(questions))
        except ValueError as error:
            self.live.fail(task, error)


@pytest.fixture
def airline() -> Iterator[Callable[..., Airline]]:
    opened: list[Airline] = []

    def make(policy: Any, score: Any = None) -> Airline:
        opened.append(Airline(policy, score or FakeScorer().score))
        return opened[-1]

    yield make
    for one in opened:
        one.live.close()


def content(caption: Caption) -> tuple:
    return caption.request, caption.method, caption.text, caption.values, caption.trace


def test_mixed_searches_give_the_captions_of_a_batch(airline: Any) -> None:
    searches = [Stepwise(), BestOfN(), Decode(), Stepwise(step_size=2)]
    requests = [request(str(i % 5), seed=i) for i in range(24)]
    line = airline(SlowPolicy(num_free=3))
    booked = [line.book(one, searches[i % 4]) for i, one in enumerate(requests)]
    for i, (_, future) in enumerate(booked):
        [alone] = searches[i % 4](FakePolicy(), FakeScorer(), [requests[i]])
        assert content(future.result(60)) == content(alone)


def test_every_choice_is_reported_before_the_caption_is_done(airline: Any) -> None:
    told: list[Any] = []
    line = airline(FakePolicy())
    _, future = line.book(request("2"), on_step=lambda *one: told.append(one))
    caption = future.result(60)
    assert told == list(zip(caption.sentences, caption.trace, strict=True))


def test_a_streamed_greedy_caption_is_the_same_sentence_by_sentence(airline: Any) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"), max_new_tokens=45)
    requests = [Request(tiny.image(i), DETAIL_PROMPTS[0]) for i in range(3)]
    line = airline(policy)
    for search in (Decode(), Decode(max_sentences=2)):
        alone = search(policy, None, requests)  # the engine's thread sleeps
        told: list[list[str]] = [[] for _ in requests]
        booked = [
            line.book(one, search, on_step=lambda text, _, own=own: own.append(text))
            for one, own in zip(requests, told, strict=True)
        ]
        for (_, future), own, expected in zip(booked, told, alone, strict=True):
            caption = future.result(60)
            assert (caption.text, caption.finish_reason) == (expected.text, expected.finish_reason)
            assert "".join(own) == caption.text
        assert max(len(own) for own in told) > 1


def test_an_error_affects_only_its_own_task(airline: Any) -> None:
    def score(questions: list[Question]) -> list[list[float]]:
        if questions[0].image.id == "nan":
            return [[float("nan")] * len(one.sentences) for one in questions]
        if questions[0].image.id == "bad":
            raise ValueError("no score")
        return FakeScorer().score(questions)

    class Picky(FakePolicy):
        def open(self, requests: Any) -> Any:
            if any(one.image.id == "unreadable" for one in requests):
                raise ValueError("an image that cannot be opened")
            return super().open(requests)

    line = airline(Picky(), score)
    names = ("1", "nan", "2", "unreadable", "bad", "3")
    futures = {name: line.book(request(name))[1] for name in names}
    for name, kind in {"nan": FloatingPointError, "unreadable": ValueError, "bad": ValueError}.items():
        with pytest.raises(kind):
            futures[name].result(60)
    assert all(futures[name].result(60).text for name in ("1", "2", "3"))
    line.live.check(60)


def test_a_dead_engine_fails_every_task(airline: Any) -> None:
    class Dying(FakePolicy):
        def step(self) -> Any:
            if self.submitted:
                raise RuntimeError("CUDA error")
            return {}

    line = airline(Dying())
    line.live.check(60)
    first = line.book(request("1"))[1]
    with pytest.raises(EngineFailed):
        first.result(60)
    with pytest.raises(EngineFailed):
        line.book(request("2"))[1].result(60)
    with pytest.raises(EngineFailed, match="RuntimeError"):
        line.live.check(60)


def test_a_stuck_engine_is_told_from_an_idle_one(airline: Any) -> None:
    class Stuck(FakePolicy):
        is_stuck = True

        def step(self) -> Any:
            while self.submitted and self.is_stuck:
                time.sleep(0.002)
            return super().step()

    policy = Stuck()
    line = airline(policy)
    time.sleep(0.05)
    line.live.check(0.04)
    line.book(request("1"))
    until(lambda: bool(policy.submitted))
    time.sleep(0.05)
    with pytest.raises(EngineFailed, match="stuck"):
        line.live.check(0.04)
    policy.is_stuck = False


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> SharedPrefixPolicy:
    folder: Path = tiny.save("llava", tmp_path_factory.mktemp("models") / "policy")
    return SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=40, max_images=3, max_rows=8)


def free(policy: SharedPrefixPolicy) -> bool:
    """Whether nothing is being decoded and no image is open."""
    decoder = policy.decoder
    return not (decoder.proposals or decoder.live or decoder.waiting or len(decoder.rows)) and (
        policy.engine.images.num_used == 0
    )


def test_a_cancelled_task_frees_its_rows_and_image_at_once(airline: Any, policy: SharedPrefixPolicy) -> None:
    line = airline(policy)
    requests = [Request(tiny.image(i), "Describe it.") for i in range(6)]
    tasks = [line.book(one, Decode(temperature=1.0))[0] for one in requests]
    until(lambda: len(policy.decoder.rows) == 3)
    for task in tasks:
        line.live.cancel(task)
    until(lambda: free(policy))
    [expected] = Stepwise()(policy, FakeScorer(), requests[:1])  # the engine's thread sleeps
    _, future = line.book(requests[0])
    assert future.result(60).text == expected.text
    until(lambda: free(policy))


def test_a_cancelled_tree_is_freed_without_the_garbage_collector(airline: Any) -> None:
    opened: list[Any] = []

    class Watched(FakePolicy):
        def commit(self, branches: Any, chosen: Any) -> Any:
            result = super().commit(branches, chosen)
            opened.extend(weakref.ref(branch) for branch in result)
            return result

    class Tiring(Airline):
        def _ask(self, task: SearchTask, questions: list[Question]) -> None:
            if len(opened) < 5:
                super()._ask(task, questions)

    gc.disable()
    try:
        line = Tiring(Watched(end_one_in=50), FakeScorer().score)
        task, _ = line.book(request("1"), MCTS())
        until(lambda: len(opened) == 5)
        assert any(branch() for branch in opened)
        line.live.cancel(task)
        until(lambda: not any(branch() for branch in opened))
    finally:
        gc.enable()
        line.live.close()


def test_a_task_cancelled_while_it_waits_for_scores_leaves_nothing(
    airline: Any, policy: SharedPrefixPolicy
) -> None:
    asked: list[Any] = []

    class Silent(Airline):
        def _ask(self, task: SearchTask, questions: list[Question]) -> None:
            asked.append(task)

    line = Silent(policy, FakeScorer().score)
    task, future = line.book(Request(tiny.image(1), "Describe it."))
    until(lambda: asked == [task])
    assert policy.engine.images.num_used == 1
    line.live.cancel(task)
    until(lambda: free(policy))
    line.live.answer(task, [[0.5]])
    line.live.close()
    assert not future.done()


def test_max_tokens_of_a_request_does_not_change_the_draws(policy: SharedPrefixPolicy) -> None:
    search = Decode(name="sample", temperature=1.0)
    one = Request(tiny.image(4), "Describe it.", 3)
    [long] = search(policy, None, [one])
    for most in (1, 9):
        [short] = search(policy, None, [Request(one.image, one.prompt, one.seed, max_tokens=most)])
        assert short.cost.num_generated_tokens == min(most, long.cost.num_generated_tokens)
        assert long.text.startswith(short.text.rstrip("\ufffd"))
