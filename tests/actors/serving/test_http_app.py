"""The application by itself: what it answers, refuses, bounds, repeats and counts."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from actors.serving.admission import hash_key
from tests.support.endpoint import Local, LocalScorer, body, chunks, expected, local, png, said
from tests.support.fakes import until
from visvm.chat import ChatRequest

__all__ = ["local"]


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
        (body(b"no image"), 400, "not a usable image"),
        (body(png()[:40]), 400, "not a usable image"),
        (body("http://169.254.169.254/latest"), 400, "fetches no images"),
        (body("file:///etc/passwd"), 400, "must be a data: URL"),
        (body(png(), model="nothing"), 404, "no such model"),
        (body(png(), n="many"), 400, "n: "),
        (body(png(), stream=True, n=99), 400, "n is 99"),
        (body(b"no image", stream=True), 400, "not a usable image"),
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


def test_a_service_that_ends_finishes_what_it_took_and_takes_no_more(local: Any) -> None:
    scorer = Held()
    app = local(scorer=scorer)
    with app.client as client, ThreadPoolExecutor(2) as pool:
        taken = pool.submit(app.chat, body(png()))
        until(lambda: scorer.num_asked == 1)
        ended = pool.submit(client.portal.call, app.service.drain)
        until(lambda: not app.service.is_open)
        refused, health = app.chat(body(png())), client.get("/healthz")
        is_early = ended.done()
        scorer.go.set()
        assert taken.result().status_code == 200 and not is_early
        ended.result()
    assert refused.status_code == health.status_code == 503


def is_idle(app: Local) -> bool:
    return not app.writer.engine_thread.scheduler.is_busy and app.service.num_requests == 0


def test_a_body_that_does_not_come_in_ends_at_the_deadline(local: Any) -> None:
    app, sent = local(seconds=0.05), []

    async def receive() -> Any:
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    asyncio.run(app.client.app(scope, receive, send))
    assert sent[0]["status"] == 408 and is_idle(app)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/healthz", 405),
        ("POST", "/", 405),
        ("POST", "/metrics", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/other", 404),
        ("PUT", "/healthz", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("GET", "/healthz", 200),
    ],
)
def test_no_other_path_waits_for_a_body_or_takes_a_place(
    local: Any, method: str, path: str, status: int
) -> None:
    app, sent = local(max_requests=1), []

    async def receive() -> Any:
        assert app.service.num_requests == 0
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"1000")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}

    async def ask() -> None:
        async with asyncio.timeout(30):
            await app.client.app(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == status and is_idle(app)


def test_a_body_has_a_deadline_of_its_own(local: Any) -> None:
    app, sent = local(seconds=3600, body_seconds=0.05), []

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
        spec = app.service.read(ChatRequest.model_validate(body(png(), n=3)))
        task = asyncio.ensure_future(anext(app.service.events(spec, follow=True)))
        while scorer.num_asked < 3:
            await asyncio.sleep(0.002)
        assert len(app.writer.engine_thread.scheduler.tasks) == 3
        task.cancel()
        scorer.go.set()
        await asyncio.wait([task])

    asyncio.run(leave())
    until(lambda: is_idle(app))


def test_metrics_count_requests_by_how_they_ended(local: Any) -> None:
    app = local()
    for data in (body(png()), body(png(), stream=True), body(b"none")):
        app.chat(data)
    text = app.client.get("/metrics").text
    for line in (
        'visvm_requests_total{replica="",status="200"} 2.0',
        'visvm_requests_total{replica="",status="400"} 1.0',
        'visvm_captions_total{method="prm",replica=""} 2.0',
        'visvm_requests_in_flight{replica=""} 0.0',
        'visvm_request_seconds_count{replica=""} 3.0',
    ):
        assert line in text
