"""Load on the endpoint: clients that each send a request, wait for the caption, and send the next."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Literal

import aiohttp

Kind = Literal["ok", "wrong", "busy", "error", "lost"]
PATH = "/v1/chat/completions"
MAX_TRIES = 20
PATIENCE = aiohttp.ClientTimeout(total=300)


@dataclass(frozen=True)
class ChatCall:
    """One request: the file of an image, and how to describe it."""

    key: str
    data: bytes
    model: str = "policy+search"
    stream: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the body that an OpenAI client would send."""
        url = f"data:image/png;base64,{base64.b64encode(self.data).decode()}"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "stream": self.stream, **self.options}


@dataclass(frozen=True)
class Outcome:
    """How a request ended; ``seconds`` run from the first attempt to the last byte.

    ok: a caption. wrong: a caption that differs from the expected one. busy: only 503s. error: another error
    in OpenAI's format, or one that ends a stream. lost: anything else, such as a broken connection.
    """

    call: ChatCall
    kind: Kind
    seconds: float
    ended: float
    num_busy: int = 0
    text: str = ""


async def closed_loop(
    url: str, calls: Iterable[ChatCall], *, clients: int, expected: dict[str, str] | None = None
) -> list[Outcome]:
    """Send ``calls`` by that many concurrent clients; compare captions with ``expected`` by key."""
    waiting = iter(calls)
    outcomes: list[Outcome] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for call in waiting:
            outcomes.append(await send(session, url, call, expected=(expected or {}).get(call.key)))

    connector = aiohttp.TCPConnector(limit=clients)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=PATIENCE) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(clients):
            group.create_task(client(session))
    return outcomes


async def send(
    session: aiohttp.ClientSession, url: str, call: ChatCall, *, expected: str | None = None
) -> Outcome:
    """Send a request; on a 503 wait as Retry-After says and repeat, at most ``MAX_TRIES`` times."""
    started = time.perf_counter()
    kind: Kind = "busy"
    text, num_busy = "", 0
    while kind == "busy" and num_busy < MAX_TRIES:
        kind, text, wait = await _try(session, url, call)
        if kind == "busy":
            num_busy += 1
            await asyncio.sleep(wait)
    if kind == "ok" and expected is not None and text != expected:
        kind = "wrong"
    ended = time.perf_counter()
    return Outcome(call, kind, ended - started, ended, num_busy, text)


async def _try(session: aiohttp.ClientSession, url: str, call: ChatCall) -> tuple[Kind, str, float]:
    """Return how one attempt ended, its caption, and the seconds to wait before the next."""
    try:
        async with session.post(url + PATH, json=call.body()) as response:
            if response.status == 503:
                return "busy", "", float(response.headers.get("Retry-After", 1))
            if response.status != 200:
                return _kind_of_error(await response.json()), "", 0.0
            if not call.stream:
                return "ok", (await response.json())["choices"][0]["message"]["content"], 0.0
            kind, text = await _read_stream(response)
            return kind, text, 0.0
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError):
        return "lost", "", 0.0


async def _read_stream(response: aiohttp.ClientResponse) -> tuple[Kind, str]:
    text = ""
    async for data in _events(response):
        if data == "[DONE]":
            return "ok", text
        chunk = json.loads(data)
        if "error" in chunk:
            return _kind_of_error(chunk), text
        text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    return "lost", text


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for line in response.content:
        if line.startswith(b"data:"):
            yield line[len(b"data:") :].decode().strip()


def _kind_of_error(body: Any) -> Kind:
    return "error" if isinstance(body, dict) and body.get("error", {}).get("message") else "lost"


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Return requests per second, median and 95th percentile of their seconds, and how they ended."""
    times = [one.seconds for one in outcomes if one.kind == "ok"]
    cuts = quantiles(times, n=20, method="inclusive") if len(times) > 1 else times * 19
    return {
        "requests_per_second": round(len(times) / seconds, 3),
        "p50_seconds": round(cuts[9], 3) if cuts else None,
        "p95_seconds": round(cuts[18], 3) if cuts else None,
        "outcomes": dict(Counter(one.kind for one in outcomes)),
        "num_503_tried_again": sum(one.num_busy for one in outcomes),
    }


async def when(condition: Callable[[], bool], *, seconds: float, every: float = 0.5) -> float:
    """Wait until ``condition`` holds; return the seconds that took.

    Raises:
        TimeoutError: it did not hold within ``seconds``.
    """
    started = time.perf_counter()
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(every)
    return time.perf_counter() - started
