"""Chat requests: how they are read, which are refused, and the format of responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.fakes import FakePolicy, FakeScorer, request
from visvm.chat import (
    CaptionResult,
    CaptionSpec,
    ChatError,
    ChatLimits,
    ChatRequest,
    Reply,
    invalid,
    model_list,
    read_spec,
    search_of,
    served_methods,
    sse,
)

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
METHODS = served_methods(["none", "reward"])


def body(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [IMAGE, *({"type": "text", "text": part} for part in parts)]
    return {"model": "policy+search", "messages": [{"role": "user", "content": content}], **fields}


def spec(data: dict[str, Any], **limits: int) -> CaptionSpec:
    return read_spec(ChatRequest(**data), ChatLimits(**limits), METHODS)


def test_a_request_without_options_gets_the_default_search() -> None:
    one = spec(body("What is", "this?", user="me", store=False, top_p=1, tools=None))
    assert (one.url, one.prompt, one.method) == (IMAGE["image_url"]["url"], "What is\nthis?", "prm")
    assert (one.seeds, one.max_tokens, one.trace) == ((0,), 512, False)
    assert one.search.temperatures == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert spec(body()).prompt == "Describe the following image."


def test_the_policy_alone_is_greedy_or_samples_by_temperature() -> None:
    assert spec(body("?", model="policy")).method == "greedy"
    assert spec(body("?", model="policy", temperature=0.001)).method == "greedy"
    sampled = spec(body("?", model="policy", temperature=0.4, n=3, seed=-2))
    assert (sampled.method, sampled.search.temperature, sampled.seeds) == ("sample", 0.4, (-2, -1, 0))
    assert search_of(sampled).temperature == 0.4


def test_search_options_are_read_and_limited() -> None:
    options = {"method": "mcts", "step_size": 2, "temperatures": [0.5], "max_sentences": 99, "trace": True}
    one = spec(body("?", visvm=options, max_tokens=2000, max_completion_tokens=30), max_sentences=9)
    assert (one.method, one.search.step_size, one.search.max_sentences, one.trace) == ("mcts", 2, 9, True)
    assert one.max_tokens == 30
    assert spec(body("?", max_tokens=2000)).max_tokens == 512


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": "gpt-4o"}, "model", 404),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages", 400),
        ({"messages": body()["messages"] * 2}, "messages", 400),
        ({"messages": [{"role": "assistant", "content": "Hi."}, *body()["messages"]]}, "messages", 400),
        ({"messages": [{"role": "system", "content": [IMAGE]}]}, "messages.0.content", 400),
        ({"continue_final_message": True}, "continue_final_message", 400),
        ({"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]}, "messages", 400),
        ({"messages": [{"role": "user", "content": "no image"}]}, "messages", 400),
        ({"n": 9}, "n", 400),
        ({"visvm": {"method": "visvm"}}, "visvm.method", 400),
        ({"visvm": {"step_size": 100}}, "visvm", 400),
        ({"visvm": {"step_size": 4}, "n": 7}, "visvm", 400),
        ({"visvm": {"method": "mcts", "simulations": 10**12}}, "visvm", 400),
    ],
)
def test_what_is_not_served_is_refused(fields: dict[str, Any], param: str, status: int) -> None:
    with pytest.raises(ChatError) as caught:
        spec(body("x" * 10) | fields)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert caught.value.body()["error"]["type"] == "invalid_request_error"


def test_a_long_prompt_is_refused_and_not_repeated() -> None:
    with pytest.raises(ChatError, match="has 11 characters") as caught:
        spec(body("secret text"), max_prompt_chars=10)
    assert "secret" not in json.dumps(caught.value.body())


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 3},
        {"temperature": float("nan")},
        {"n": 0},
        {"max_tokens": 0},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "secret \ud800"}]}]},
        {"messages": [{"role": "tool", "content": "secret"}]},
        {"stop": ""},
        {"stop": ["."] * 17},
        {"stop": 5},
        {"visvm": {"beam": 1}},
        {"visvm": {"temperatures": [1e-40]}},
        {"visvm": {"temperatures": []}},
        {"visvm": {"centre": float("inf")}},
        {"visvm": {"exploration": float("nan")}},
    ],
)
def test_an_invalid_field_is_named_and_its_value_not_repeated(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest(**(body() | fields))
    error = invalid(caught.value.errors())
    assert error.status == 400 and (error.param or "").startswith(next(iter(fields)))
    assert "secret" not in json.dumps(error.body())


def written(one: CaptionSpec) -> CaptionResult:
    [caption] = search_of(one)(FakePolicy(), FakeScorer(), [request("5")])
    return CaptionResult.of(0, caption, trace=True)


def test_a_completion_has_openais_fields_and_the_trace_on_request() -> None:
    one = written(spec(body("?")))
    plain = Reply("policy+search").completion([one, one], trace=False)
    assert plain["object"] == "chat.completion" and plain["id"].startswith("chatcmpl-")
    assert [choice["message"]["content"] for choice in plain["choices"]] == [one.text] * 2
    assert plain["choices"][0]["finish_reason"] in ("stop", "length")
    usage = plain["usage"]
    assert usage == {
        "prompt_tokens": 14,
        "completion_tokens": 2 * one.num_tokens,
        "total_tokens": 14 + 2 * one.num_tokens,
    }
    assert 0 < one.num_tokens < one.cost["num_generated_tokens"]
    assert "visvm" not in plain and "visvm" not in plain["choices"][0]
    story = Reply("policy+search").completion([one], trace=True)["visvm"]
    assert set(story) == {"method", "sentences", "values", "trace", "cost"}
    assert "".join(story["sentences"]) == one.text
    for step, sentence, value in zip(story["trace"], one.sentences, one.values, strict=True):
        best = step["candidates"][step["choice"]]
        assert (best["text"], best["value"]) == (sentence, value)


def test_a_stream_adds_up_to_the_completion() -> None:
    one = written(spec(body("?")))
    reply = Reply("policy+search")
    chunks = [reply.first(0)]
    chunks += [reply.sentence(0, text, step) for text, step in zip(one.sentences, one.trace, strict=True)]
    chunks += [reply.last(one, trace=True), reply.usage([one])]
    lines = b"".join(sse(chunk) for chunk in chunks).decode().split("\n\n")
    read = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert read == chunks
    deltas = [choice["delta"] for chunk in read for choice in chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == one.text
    assert read[-2]["choices"][0]["finish_reason"] == one.finish_reason
    assert read[-2]["visvm"]["cost"]["num_value_calls"] == one.cost["num_value_calls"]
    assert [chunk["visvm"]["step"] for chunk in read[1:-2]] == one.trace
    assert len({(chunk["id"], chunk["created"]) for chunk in read}) == 1


def test_models_list_the_served_methods_the_default_first() -> None:
    assert METHODS[0] == "prm" and "visvm" not in METHODS
    assert served_methods(["none", "reward", "value"])[0] == "visvm"
    assert served_methods(["none"]) == ["greedy", "sample"]
    models = {model["id"]: model for model in model_list(METHODS)["data"]}
    assert models["policy+search"]["visvm"]["methods"] == METHODS and "policy" in models
