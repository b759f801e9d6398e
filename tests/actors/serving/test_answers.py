"""How an answer begins and ends: continued from what is given, and cut before a stop text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.endpoint import body, chunks, expected, local, png, said

__all__ = ["local"]

METHODS = ["prm", "greedy", "best_of_n", "mcts", "oracle"]


def asked(method: str, **fields: Any) -> dict[str, Any]:
    return body(png(), visvm={"method": method, "simulations": 2, "completions": 1}, **fields)


def answers(app: Any, data: dict[str, Any]) -> tuple[str, str]:
    """Return text and finish reason, which are the same streamed and not."""
    choice = app.chat(data).json()["choices"][0]
    stream = chunks(app.chat(data | {"stream": True}).text)
    reasons = [one["finish_reason"] for chunk in stream for one in chunk["choices"] if one["finish_reason"]]
    assert (said(stream), reasons) == (choice["message"]["content"], [choice["finish_reason"]])
    return choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_ends_before_the_first_stop_text(local: Any, method: str) -> None:
    app = local()
    whole, _ = answers(app, asked(method, seed=3))
    assert whole.count(".") > 1
    for stop in (".", ". A", whole[7:12], [" of", "."], whole[:1], whole[-5:], "never", whole):
        stops = [stop] if isinstance(stop, str) else stop
        ends = [whole.find(one) for one in stops if one in whole]
        text, reason = answers(app, asked(method, seed=3, stop=stop))
        assert text == whole[: min(ends, default=len(whole))]
        assert reason == "stop" or not ends


def test_what_is_written_after_a_stop_text_costs_nothing(local: Any) -> None:
    app = local()
    whole, cut = (app.chat(asked("prm", seed=3, **more)).json()["usage"] for more in ({}, {"stop": "."}))
    assert cut["completion_tokens"] < whole["completion_tokens"] / 2


@pytest.mark.parametrize("method", ["prm", "greedy"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_continued_answer_is_the_rest_of_the_whole(local: Any, method: str, space: str) -> None:
    app = local()
    whole, reason = answers(app, asked(method, seed=3))
    sentences = whole.split(".")[:-1]
    assert len(sentences) > 1
    for i in range(1, len(sentences)):
        start = "".join(f"{one}." for one in sentences[:i])
        data = asked(method, seed=3, continue_final_message=True)
        data["messages"] = [*data["messages"], {"role": "assistant", "content": start + space}]
        text, ended = answers(app, data)
        if not space:
            assert (start + text, ended) == (whole, reason)
        assert not space or not text.startswith(" ")


def test_a_conversation_is_answered_by_its_turns(local: Any) -> None:
    app, data = local(), body(png())
    talk = [
        *data["messages"],
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "More."},
    ]
    one, other = (
        app.chat(data | {"messages": [*talk[:2], turn]}) for turn in (talk[2], talk[2] | {"content": "?"})
    )
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in (one, other)]
    assert texts[0] != texts[1] and expected(data, png()) not in texts
