"""A search and a scorer of the user's own, served: what the config must hold, and what a request gets."""

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import Any

import pytest
from ray.serve import Application

from actors.serving.caption_stream import CaptionWriter
from jobs.runtime.serve_config import ServeConfig, find_models
from jobs.serve import _settings, build
from tests.support.fakes import FakePolicy
from tests.support.own import ShortestFirst
from tests.support.tiny import image
from visvm.chat import CaptionResult, ChatLimits, ChatRequest, Event, read_spec
from visvm.config import load
from visvm.records import Question

SEARCH, SCORER = "tests.support.own:TwoSentences", "tests.support.own:ShortestFirst"


class LocalScorer:
    """What RemoteScorer is, without the way to a replica."""

    async def score(self, questions: Sequence[Question], data: bytes) -> list[list[float]]:
        return ShortestFirst().score(questions)


def png() -> bytes:
    data = io.BytesIO()
    image(0).pil.save(data, "PNG")
    return data.getvalue()


def request(**options: Any) -> ChatRequest:
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}]
    messages = [{"role": "user", "content": content}]
    return ChatRequest(model="policy+search", messages=messages, visvm=options)  # type: ignore[arg-type]


async def write(given: ChatRequest, methods: Sequence[str]) -> list[Event]:
    writer = CaptionWriter(FakePolicy(), {"reward": LocalScorer()}, max_pixels=10**6)  # type: ignore[arg-type,dict-item]
    spec = read_spec(given, ChatLimits.model_validate({}), methods)
    events = [event async for event in writer.write(spec, png(), follow=False)]
    writer.engine_thread.close()
    return events


def test_it_is_served_under_its_name_and_is_the_default() -> None:
    config = load(ServeConfig, search=SEARCH, scorer=SCORER, device="cpu")
    models = find_models(config)
    assert (models.value, models.reward, models.scorer) == (None, None, SCORER)
    methods = _settings(config, ["none", "reward", "value"]).methods
    assert methods[0] == SEARCH and {"prm", "visvm", "greedy"} <= set(methods)
    for given in (request(), request(method=SEARCH)):
        [result] = asyncio.run(write(given, methods))
        assert isinstance(result, CaptionResult) and result.method == "two_sentences"
        assert result.values == tuple(-float(len(text.strip())) for text in result.sentences)


@pytest.mark.ray
def test_the_application_binds_the_scorer_in_place_of_the_models() -> None:
    assert isinstance(build({"scorer": SCORER, "device": "cpu"}), Application)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "tests.support.own:number"}, "expected a subclass"),
        ({"search": "beam"}, "expected one of greedy"),
        ({"scorer": "tests.support.own:Missing"}, "cannot be imported"),
        ({"search": SEARCH, "reward": "none"}, "needs 'reward', and no model here gives that"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_models(load(ServeConfig, **options))
