"""The load of benchmark-serve: nothing that goes wrong may pass for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from actors.serving.http_app import make_app
from jobs.loadtest.load_generator import ChatCall, Outcome, closed_loop, summary
from tests.support.endpoint import Local, png
from tests.support.servers import running
from tests.visvm.test_fetch_servers import answer, server

ERROR = b'{"error": {"message": "no"}}'
CHUNK = b'data: {"choices": [{"delta": {"content": "A cat."}}]}\n\n'


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    local = Local(max_requests=3)
    with running(make_app(local.service)) as address:
        yield address
    local.close()


def calls(num: int) -> list[ChatCall]:
    return [ChatCall(str(i % 2), png(i % 2), stream=i % 3 == 0) for i in range(num)]


def test_a_caption_is_the_same_streamed_or_not_and_however_many_ask(url: str) -> None:
    alone = asyncio.run(closed_loop(url, calls(4), clients=1))
    expected = {one.call.key: one.text for one in alone}
    assert set(expected) == {"0", "1"} and all(expected.values())
    outcomes = asyncio.run(closed_loop(url, calls(12), clients=3, expected=expected))
    assert [one.kind for one in outcomes] == ["ok"] * 12
    told = summary(outcomes, 2.0)
    assert told["requests_per_second"] == 6 and told["outcomes"] == {"ok": 12}
    assert 0 < told["p50_seconds"] <= told["p95_seconds"]
    wrong = asyncio.run(closed_loop(url, calls(3), clients=1, expected=expected | {"1": "A dog."}))
    assert [one.kind for one in wrong] == ["ok", "wrong", "ok"]


def outcome(said: bytes, *, stream: bool) -> Outcome:
    async def both() -> list[Outcome]:
        async with server(said) as (port, _):
            return await closed_loop(
                f"http://127.0.0.1:{port}", [ChatCall("0", png(), stream=stream)], clients=1
            )

    return asyncio.run(both())[0]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(CHUNK + b"data: [DONE]\n\n"), "ok"),
        (answer(CHUNK), "lost"),
        (answer(CHUNK + b"data: " + ERROR + b"\n\n"), "error"),
        (answer(CHUNK + b"data: {\n\n"), "lost"),
        (answer(CHUNK, headers="Content-Length: 999\r\n"), "lost"),
        (answer(ERROR, status="504 Late", headers="Content-Type: application/json\r\n"), "error"),
        (answer(b"oops", status="500 Oops"), "lost"),
        (answer(ERROR, status="503 Busy", headers="Retry-After: 0\r\n"), "busy"),
        (b"", "lost"),
    ],
)
def test_how_a_stream_ended(said: bytes, kind: str) -> None:
    assert outcome(said, stream=True).kind == kind


def test_how_a_plain_answer_ended() -> None:
    whole = b'{"choices": [{"message": {"content": "A cat."}}]}'
    headers = "Content-Type: application/json\r\n"
    assert outcome(answer(whole, headers=headers), stream=False).text == "A cat."
    assert outcome(answer(whole[:20], headers=headers), stream=False).kind == "lost"
    assert outcome(answer(b"{}", headers=headers), stream=False).kind == "lost"
