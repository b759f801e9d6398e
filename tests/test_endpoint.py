"""The application by itself: what it answers, refuses, bounds, repeats and counts."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from actors.gate import hash_key
from tests.endpoint import Local, LocalScorer, body, chunks, picture, png, said
from tests.fakes import FakePolicy, FakeScorer, until
from visvm.chat import ChatRequest, Event, Order
from visvm.records import Question, Request
from visvm.search import SearchConfig, make_search
from visvm.search.live import EngineFailed


@pytest.fixture
def local() -> Iterator[Callable[..., Local]]:
    opened: list[Local] = []

    def make(*args: Any, **settings: Any) -> Local:
        opened.append(Local(*args, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def expected(data: dict[str, Any], image: bytes, method: str = "prm", seed: int = 0) -> str:
    prompt = data["messages"][0]["content"][1]["text"]
    [caption] = make_search(method, SearchConfig())(
        FakePolicy(), FakeScorer(), [Request(picture(image), prompt, seed)]
    )
    return caption.text


def test_captions_are_those_of_the_search(local: Any) -> None:
    app = local()
    for shade, method in enumerate(("prm", "best_of_n", "mcts", "greedy")):
        data = body(png(shade), visvm={"method": method, "trace": True})
        answer = app.chat(data).json()
        assert answer["choices"][0]["message"]["content"] == expected(data, png(shade), method)
        assert bool(answer["visvm"]["trace"]) == (method != "greedy")
        assert answer["visvm"]["cost"]["seconds"] > 0
    several = app.chat(body(png(9), n=3, seed=5)).json()
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert texts == [expected(body(png(9)), png(9), seed=seed) for seed in (5, 6, 7)]


@pytest.mark.parametrize("method", ["prm", "best_of_n", "greedy"])
def test_a_stream_tells_each_sentence_and_ends(local: Any, method: str) -> None:
    data = body(png(3), stream=True, n=2, stream_options={"include_usage": True}, visvm={"method": method})
    answer = local().chat(data)
    assert answer.headers["content-type"].startswith("text/event-stream")
    stream = chunks(answer.text)
    for index in (0, 1):
        assert said(stream, index) == expected(data, png(3), method, seed=index)
    assert stream[-1]["choices"] == [] and stream[-1]["usage"]["completion_tokens"] > 0
    ends = [choice["finish_reason"] for chunk in stream for choice in chunk["choices"]]
    assert len([end for end in ends if end]) == 2
    assert not any("visvm" in chunk for chunk in stream)
    traced = chunks(local().chat(body(png(3), stream=True, visvm={"trace": True})).text)
    assert all(chunk["visvm"]["step"]["candidates"] for chunk in traced[1:-1])


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (body(b"no picture"), 400, "not a usable picture"),
        (body(png()[:40]), 400, "not a usable picture"),
        (body("http://169.254.169.254/latest"), 400, "fetches no pictures"),
        (body("file:///etc/passwd"), 400, "must be a data: URL"),
        (body(png(), model="nothing"), 404, "no such model"),
        (body(png(), n="many"), 400, "n: "),
        (body(png(), stream=True, n=99), 400, "n is 99"),
        (body(b"no picture", stream=True), 400, "not a usable picture"),
        ({}, 400, "model"),
        ([], 400, "body"),
    ],
)
def test_refusals_have_openais_shape_and_repeat_nothing(
    local: Any, data: Any, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    answer = local().chat(data)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and message in error["message"]
    assert "secret" not in answer.text + caplog.text and "Traceback" not in answer.text


def test_bodies_and_paths_that_are_none(local: Any) -> None:
    client = local().client
    path = "/v1/chat/completions"
    assert client.post(path, content=b"{").status_code == 400
    assert client.post(path, content=b'{"model": "\xff"}').status_code == 400
    assert client.post(path, content=b"x" * 100_001).status_code == 413
    assert client.post(path, content=(b"x" * 50_000 for _ in range(9))).status_code == 413
    assert client.get(path).status_code == 405 and "error" in client.get(path).json()
    assert client.get("/v2").status_code == 404 and "error" in client.get("/v2").json()
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/v1/models").json()["data"][1]["visvm"]["methods"][0] == "prm"


def test_keys_guard_the_api_alone(local: Any) -> None:
    app = local(key_hashes=(hash_key(b"one"), hash_key(b"two")))
    for headers in (
        {},
        {"Authorization": "Bearer three"},
        {"Authorization": "two"},
        {"Authorization": "\xe9"},
    ):
        answer = app.chat({"no": "request"}, headers={k: v.encode("latin-1") for k, v in headers.items()})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert app.client.get("/v1/models", headers=answer.request.headers).status_code == 401
    assert app.chat(body(png()), headers={"Authorization": "Bearer two"}).status_code == 200
    assert app.client.get("/healthz").status_code == app.client.get("/metrics").status_code == 200


class Held(LocalScorer):
    """Answers once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.num_asked = threading.Event(), 0

    async def score(self, questions: Any, data: bytes) -> Any:
        self.num_asked += 1
        while not self.go.is_set():
            await asyncio.sleep(0.002)
        return await super().score(questions, data)


def test_more_than_may_wait_are_told_to_come_again(local: Any) -> None:
    scorer = Held()
    app = local(scorer=scorer, max_requests=3)
    with app.client as client, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(app.chat, body(png(i))) for i in range(3)]
        until(lambda: scorer.num_asked == 3)
        refusals = [app.chat(body(png(), stream=stream)) for stream in (False, True)]
        health = client.get("/healthz").status_code
        scorer.go.set()
        for refused in refusals:
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert refused.json()["error"]["code"] == "overloaded"
        assert health == 200
        assert [one.result().status_code for one in waiting] == [200] * 3
        assert app.chat(body(png())).status_code == 200


def is_idle(app: Local) -> bool:
    return not app.captioner.live.tower.is_busy and app.service.num_requests == 0


def test_a_body_that_does_not_come_in_ends_at_the_deadline(local: Any) -> None:
    app, sent = local(seconds=0.05), []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(app.client.app(scope, receive, send))
    assert sent[0]["status"] == 408 and is_idle(app)


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_ends_a_request_and_frees_what_it_held(local: Any, stream: bool) -> None:
    scorer = Held()
    app = local(scorer=scorer, seconds=0.2)
    answer = app.chat(body(png(), stream=stream))
    scorer.go.set()
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "deadline_exceeded"
    until(lambda: is_idle(app))


def test_a_client_that_leaves_frees_what_it_held(local: Any) -> None:
    scorer = Held()
    app = local(scorer=scorer)

    async def leave() -> None:
        order = app.service.read(ChatRequest.model_validate(body(png(), n=3)))
        task = asyncio.ensure_future(anext(app.service.events(order, follow=True)))
        while scorer.num_asked < 3:
            await asyncio.sleep(0.002)
        assert len(app.captioner.live.tower.flights) == 3
        task.cancel()
        scorer.go.set()
        await asyncio.wait([task])

    asyncio.run(leave())
    until(lambda: is_idle(app))


class Mortal(Local):
    """Its policy is lost after ``lives[i]`` events of the i-th try."""

    def __init__(self, *lives: int, error: Exception | None = None, **settings: Any) -> None:
        self.lives = list(lives)
        self.error = error or ActorDiedError()
        super().__init__(**settings)

    async def write(self, order: Order, data: bytes, follow: bool) -> AsyncIterator[Event]:
        life = self.lives.pop(0) if self.lives else None
        async for event in super().write(order, data, follow):
            if life == 0:
                raise self.error
            life = None if life is None else life - 1
            yield event


@pytest.mark.parametrize("error", [ActorDiedError(), EngineFailed("the engine failed")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_replica_that_dies_is_replaced_without_a_trace(error: Exception, stream: bool) -> None:
    app = Mortal(0, 1, 1, error=error)
    try:
        data = body(png(4), stream=stream, n=2)
        answer = app.chat(data)
        for index in (0, 1):
            whole = expected(data, png(4), seed=index)
            if stream:
                assert said(chunks(answer.text), index) == whole
            else:
                assert answer.json()["choices"][index]["message"]["content"] == whole
        assert app.lives == []
    finally:
        app.close()


def test_a_request_that_kills_every_replica_gives_up() -> None:
    app = Mortal(*[0] * 9)
    try:
        answer = app.chat(body(png(4)))
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert len(app.lives) == 9 - 4
    finally:
        app.close()


def test_a_stream_that_breaks_ends_with_an_error(local: Any) -> None:
    class Breaking(FakeScorer):
        def score(self, questions: Any) -> Any:
            if questions[0].prefix:
                raise RuntimeError(f"out of memory over {questions[0].prompt}")
            return super().score(questions)

    app = local(scorer=LocalScorer(Breaking()))
    seed = next(i for i in range(99) if expected(body(png()), png(), seed=i).count(".") > 1)
    lines = app.chat(body(png(), stream=True, seed=seed)).text.split("\n\n")
    assert said([json.loads(line.removeprefix("data: ")) for line in lines[:-2]]).count(".") == 1
    assert '"server_error"' in lines[-2] and "[DONE]" not in "".join(lines)
    plain = app.chat(body(png(), seed=seed))
    assert plain.status_code == 500 and "RuntimeError" in plain.text


def test_failures_tell_nothing_of_the_content(local: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(question: Question, i: int) -> float:
        raise RuntimeError(question.prompt)

    caplog.set_level("DEBUG")
    app = local(scorer=LocalScorer(FakeScorer(fail)))
    answer = app.chat(body(png()))
    assert answer.status_code == 500
    assert "secret" not in answer.text + caplog.text and "RuntimeError" in caplog.text


def test_metrics_count_requests_by_how_they_ended(local: Any) -> None:
    app = local()
    for data in (body(png()), body(png(), stream=True), body(b"none")):
        app.chat(data)
    text = app.client.get("/metrics").text
    for line in (
        'visvm_requests_total{status="200"} 2.0',
        'visvm_requests_total{status="400"} 1.0',
        'visvm_captions_total{method="prm"} 2.0',
        "visvm_requests_in_flight 0.0",
        "visvm_request_seconds_count 3.0",
    ):
        assert line in text
