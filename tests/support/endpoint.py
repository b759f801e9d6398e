"""Requests to an endpoint, and the HTTP application in this process over fakes, without Ray or torch."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from actors.serving.caption_stream import CaptionWriter
from actors.serving.http_app import make_app
from actors.serving.service import ChatService, Settings
from tests.support.fakes import FakePolicy, FakeScorer
from visvm.chat import CaptionSpec, ChatLimits, Event, served_methods
from visvm.fetch import Limits
from visvm.images import decode
from visvm.records import DecodedImage, Question, Request
from visvm.search import SearchConfig, make_search

PROMPT = "Describe the secret image."


def png(shade: int = 0) -> bytes:
    """Return the bytes of a small image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def body(data: bytes | str, prompt: str = PROMPT, **fields: Any) -> dict[str, Any]:
    """Return a chat request about an image, given as bytes or as a URL."""
    url = data if isinstance(data, str) else data_url(data)
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
    return {"model": "policy+search", "messages": [{"role": "user", "content": parts}], **fields}


def chunks(text: str) -> list[dict[str, Any]]:
    """Return the chunks of a stream, checking that it ended with [DONE]."""
    lines = [line for line in text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]", lines[-1]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def said(stream: Sequence[dict[str, Any]], index: int = 0) -> str:
    """Return the text of a caption from the chunks of a stream."""
    choices = [choice for chunk in stream for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


class LocalScorer:
    """A local scorer behind the interface of the remote one."""

    def __init__(self, scorer: Any = None) -> None:
        self.scorer = scorer or FakeScorer()

    async def score(self, questions: Sequence[Question], data: bytes) -> list[list[float]]:
        assert decode(data, id="x", uri="x").content_hash == questions[0].image.content_hash
        return self.scorer.score(questions)


class Local:
    """Start the application over ``policy`` and give a client of it."""

    def __init__(self, policy: Any = None, scorer: Any = None, **settings: Any) -> None:
        scorers: Any = {"reward": scorer or LocalScorer()}
        self.writer = CaptionWriter(policy or FakePolicy(), scorers, max_pixels=10_000)
        fields: dict[str, Any] = {
            "policy": "fake",
            "is_world": False,
            "methods": tuple(served_methods(["none", "reward"])),
            "limits": ChatLimits(),
            "fetch": Limits(),
            "max_requests": 8,
            "seconds": 60.0,
            "max_body_bytes": 100_000,
        }
        self.service = ChatService(self.write, Settings(**fields | settings), waits=(0, 0, 0))
        self.client = TestClient(make_app(self.service), raise_server_exceptions=False)

    async def write(self, spec: CaptionSpec, data: bytes, follow: bool) -> AsyncIterator[Event]:
        async for event in self.writer.write(spec, data, follow=follow):
            yield event

    def chat(self, data: dict[str, Any], **more: Any) -> Any:
        """Send a chat request and return the response."""
        return self.client.post("/v1/chat/completions", json=data, **more)

    def close(self) -> None:
        self.writer.engine_thread.close()


def decoded(data: bytes) -> DecodedImage:
    """Return the image as the endpoint decodes it."""
    return decode(data, id="image", uri="the image")


def expected(data: dict[str, Any], image: bytes, method: str = "prm", seed: int = 0) -> str:
    prompt = data["messages"][0]["content"][1]["text"]
    [caption] = make_search(method, SearchConfig())(
        FakePolicy(), FakeScorer(), [Request(decoded(image), prompt, seed)]
    )
    return caption.text


@pytest.fixture
def local() -> Iterator[Callable[..., Local]]:
    opened: list[Local] = []

    def make(*args: Any, **settings: Any) -> Local:
        opened.append(Local(*args, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
