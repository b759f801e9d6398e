"""Ask an OpenAI-compatible endpoint many questions: bounded concurrency, retries with back-off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]
MakeMessages = Callable[[], Messages]  # made when it is their turn: images are large


@dataclass(frozen=True)
class Endpoint:
    """Where to ask, and how; the key is OPENAI_API_KEY of the environment."""

    url: str
    model: str
    concurrency: int = 8
    max_retries: int = 5
    timeout: float = 600.0


@dataclass(frozen=True)
class Reply:
    """The reply to a question, or why there is none after all retries."""

    id: str
    text: str | None
    error: str | None = None


async def ask_all(
    endpoint: Endpoint, conversations: Mapping[str, MakeMessages], **options: Any
) -> AsyncGenerator[Reply]:
    """Yield the replies as they come; ``options`` are fields of the request, such as temperature.

    Raises:
        ValueError: the endpoint refuses the key or does not know the model.
    """
    import openai

    free = asyncio.Semaphore(endpoint.concurrency)
    client = openai.AsyncOpenAI(
        base_url=endpoint.url,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        max_retries=endpoint.max_retries,
        timeout=endpoint.timeout,
    )

    async def ask(key: str, make: MakeMessages) -> Reply:
        async with free:
            try:
                body: Any = {"model": endpoint.model, "messages": make(), **options}
                done = await client.chat.completions.create(**body)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise ValueError(f"{endpoint.url} refuses to answer as {endpoint.model}: {error}") from None
            except openai.OpenAIError as error:
                return Reply(key, None, f"{type(error).__name__}: {error}")
            text = done.choices[0].message.content if done.choices else None
            return Reply(key, text or "") if done.choices else Reply(key, None, "a reply without choices")

    tasks = [asyncio.ensure_future(ask(key, make)) for key, make in conversations.items()]
    try:
        for task in asyncio.as_completed(tasks):
            yield await task
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
