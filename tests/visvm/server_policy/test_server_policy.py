"""Search in front of a server: our own endpoint on loopback, and servers that misbehave."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

import visvm
from actors.serving.http_app import make_app
from jobs.runtime.serve_config import ServeConfig
from jobs.serve import _policy_keywords
from tests.support.endpoint import Local, body
from tests.support.servers import running
from visvm.config import load
from visvm.loading import load_policy
from visvm.models import WORLD, check_policy, check_writer
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request as CaptionRequest
from visvm.search import SearchConfig, make_search
from visvm.sentences import split_sentences
from visvm.server_policy.names import ServedPolicy
from visvm.server_policy.policy import ServerPolicy
from visvm.world import checks
from visvm.world.scenes import layout

IMAGES = [checks.render_image(layout("test", index)) for index in range(3)]
PROMPT = "Describe this image in detail."


@pytest.fixture(scope="module")
def world() -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"))


@pytest.fixture(scope="module")
def url(world: SharedPrefixPolicy) -> Iterator[str]:
    """The world's policy behind our own endpoint."""
    local = Local(world)
    with running(make_app(local.service)) as address:
        yield f"{address}/v1"
    local.close()


def test_greedy_is_the_servers_own_text_whole_and_by_sentences(url: str) -> None:
    expected = visvm.load("world")
    served = visvm.load(f"{url}#policy", value="world")
    for image in IMAGES:
        text = expected.caption(image.pil, "greedy", prompt=PROMPT).text
        assert served.caption(image.pil, "greedy", prompt=PROMPT).text == text
        steps = [step.text for step in served.stream(image.pil, "greedy", prompt=PROMPT)]
        assert "".join(steps) == text and len(steps) == len(split_sentences(text)) > 3


def test_guided_search_continues_the_caption_so_far(url: str) -> None:
    served = visvm.load(f"{url}#policy", value="world")
    caption = served.caption(IMAGES[0].pil, "visvm", prompt=PROMPT)
    assert caption.text == "".join(step.candidates[step.choice].text for step in caption.trace)
    assert list(caption.sentences) == split_sentences(caption.text)
    assert all(step.values[step.choice] == max(step.values) for step in caption.trace)
    assert all(len(split_sentences(one.text)) == 1 for step in caption.trace for one in step.candidates)
    assert caption.cost.num_generated_tokens > 0 and caption.cost.num_value_calls > 0


def test_our_endpoint_serves_search_in_front_of_a_server(url: str) -> None:
    keywords = _policy_keywords(load(ServeConfig, policy=url, policy_model="policy", policy_seeds=False))
    local = Local(load_policy(f"{url}#policy", device="cpu", dtype="float32", **keywords))
    buffer = io.BytesIO()
    IMAGES[0].pil.save(buffer, "PNG")
    answer = local.chat(body(buffer.getvalue(), PROMPT, visvm={"method": "greedy"})).json()
    local.close()
    text = visvm.load("world").caption(IMAGES[0].pil, "greedy", prompt=PROMPT).text
    assert answer["choices"][0]["message"]["content"] == text


def test_many_captions_at_once_are_those_of_one_at_a_time(url: str) -> None:
    policy = ServerPolicy(f"{url}#policy", max_rows=3)
    search = make_search("greedy", SearchConfig())
    together = search(policy, None, [CaptionRequest(image, PROMPT) for image in IMAGES])
    alone = [search(policy, None, [CaptionRequest(image, PROMPT)])[0] for image in IMAGES]
    assert [one.text for one in together] == [one.text for one in alone]
    assert policy.num_free == policy.options.max_images and not policy.is_busy
    policy.close()


def test_a_length_ends_the_caption_and_a_cancelled_one_leaves_nothing(url: str) -> None:
    policy = ServerPolicy(f"{url}#policy", max_new_tokens=5)
    [branch] = policy.open([CaptionRequest(IMAGES[0], PROMPT)])
    number = policy.submit([branch], [0.0], whole=True)
    while not (done := policy.step()):
        pass
    [[candidate]] = done[number]  # type: ignore[misc]
    assert candidate.finish_reason == "length" and candidate.ended
    policy.cancel(policy.submit([branch], [0.0, 0.5]))
    assert policy.step() == {} and policy.usage()["rows"] == 0
    policy.close()


def test_a_server_is_asked_before_the_work(url: str) -> None:
    assert check_writer(f"{url}#policy") == f"{url}#policy"
    with pytest.raises(ValueError, match="this needs the weights"):  # of training, check and merge
        check_policy(f"{url}#policy")
    with pytest.raises(ValueError, match=r"serves policy, policy\+search; name one with --policy-model"):
        check_writer(f"{url}#other")
    with pytest.raises(ValueError, match="is the address right"):
        check_writer("http://127.0.0.1:9/v1#policy")
    joined = load(Named, policy="http://host/v1", policy_model="org/name")
    assert joined.policy == "http://host/v1#org/name"
    assert load(Named, **joined.model_dump()) == joined
    with pytest.raises(ValueError, match="names a model at a server"):
        load(Named, policy="world", policy_model="name")


class Named(ServedPolicy):
    policy: str


def stub(chat: object) -> FastAPI:
    app = FastAPI()
    model = {"id": "m", "object": "model", "created": 0, "owned_by": "x"}
    app.get("/v1/models")(lambda: {"object": "list", "data": [model]})
    app.post("/v1/chat/completions")(chat)
    return app


def test_a_server_that_cannot_continue_a_message_is_refused() -> None:
    async def chat(request: Request) -> Response:
        return Response('{"error": {"message": "last message must be the user\'s"}}', 400)

    with running(stub(chat)) as address, pytest.raises(ValueError, match="m cannot continue a message"):
        check_writer(f"{address}/v1")


def test_a_broken_stream_is_begun_again_and_log_probabilities_are_left_out() -> None:
    asked = []

    async def chat(request: Request) -> Response:
        body = await request.json()
        asked.append(body)
        if "logprobs" in body:
            return Response('{"error": {"message": "logprobs: not supported"}}', 400)
        parts = ["A dog", " barks.", " Then"] + ([" it stops"] if len(asked) > 2 else [])
        last = "stop" if len(asked) > 2 else None

        def events() -> Iterator[str]:
            for i, part in enumerate(parts):
                end = last if i == len(parts) - 1 else None
                choice = {"index": 0, "delta": {"content": part}, "finish_reason": end}
                chunk = {"id": "x", "object": "chat.completion.chunk", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    with running(stub(chat)) as address:
        policy = ServerPolicy(f"{address}/v1")
        [branch] = policy.open([CaptionRequest(IMAGES[0], PROMPT)])
        number = policy.submit([branch], [0.0], whole=True)
        while not (done := policy.step()):
            pass
        [[candidate]] = done[number]  # type: ignore[misc]
        assert candidate.text == "A dog barks. Then it stops" and candidate.ended
        number = policy.submit([branch], [0.0])
        while not (done := policy.step()):
            pass
        [[first]] = done[number]  # type: ignore[misc]
        assert (first.text, first.finish_reason) == ("A dog barks.", "sentence")
        [after] = policy.commit([branch], [first])
        number = policy.submit([after], [0.0])
        policy.cancel(number)
        assert after.sentences == ("A dog barks.",)
        policy.close()
    assert "continue_final_message" not in asked[0]


def test_a_head_is_refused_for_it_reads_states_that_a_server_keeps(tmp_path: Path, url: str) -> None:
    from visvm.scorers import load_head

    with pytest.raises(ValueError, match="behind a server does not give"):
        load_head({"name": str(tmp_path)}, ServerPolicy(f"{url}#policy"))
