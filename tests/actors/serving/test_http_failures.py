"""What a client sees when replicas die, searches fail or streams break: the caption, or a clean error."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from tests.support.endpoint import Local, LocalScorer, body, chunks, expected, local, png, said
from tests.support.fakes import FakeScorer
from visvm.chat import CaptionSpec, Event
from visvm.records import Question
from visvm.search.scheduler_thread import EngineFailed

__all__ = ["local"]


class Mortal(Local):
    """Its policy is lost after ``lives[i]`` events of the i-th try."""

    def __init__(self, *lives: int, error: Exception | None = None, **settings: Any) -> None:
        self.lives = list(lives)
        self.error = error or ActorDiedError()
        super().__init__(**settings)

    async def write(self, spec: CaptionSpec, data: bytes, follow: bool) -> AsyncIterator[Event]:
        life = self.lives.pop(0) if self.lives else None
        async for event in super().write(spec, data, follow):
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
