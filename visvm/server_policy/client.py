"""Requests for candidates: bounded concurrency, and retries with back-off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visvm.records import Candidate, Conversation, Prompt
from visvm.sentences import SentenceScanner
from visvm.server_policy.names import api_key
from visvm.server_policy.probe import CONTINUE, Server
from visvm.server_policy.stream import GrowingCandidate, read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """How a served policy samples, and how much is asked of the server at a time."""

    max_new_tokens: int = 512
    top_p: float = 0.9
    max_images: int = 64  # captions in progress
    max_rows: int = 192  # requests at a time
    template: Mapping[str, Any] = field(default_factory=dict)  # options of the chat template
    seeds: bool = True
    max_retries: int = 5
    timeout: float = 600.0


@dataclass(frozen=True)
class Ask:
    """One candidate to be written: after which text, how hot, how long."""

    prompt: Prompt
    image_url: str
    image_key: str
    text: str
    temperature: float
    seed: int
    max_tokens: int
    whole: bool


class ChatClient:
    """Ask one server for candidates; to be used from one event loop."""

    def __init__(self, server: Server, options: ServerOptions) -> None:
        import openai

        self.server, self.options = server, options
        self.client = openai.AsyncOpenAI(
            base_url=server.url, api_key=api_key(), max_retries=options.max_retries, timeout=options.timeout
        )
        self.free = asyncio.Semaphore(options.max_rows)
        self.has_log_probs = True

    async def candidate(self, ask: Ask) -> Candidate:
        """Return one candidate; a stream that breaks is begun again.

        Raises:
            ValueError: the server refuses the request.
            ConnectionError: the server does not answer after all retries.
        """
        import openai

        for attempt in range(self.options.max_retries + 1):
            asked_log_probs = self.has_log_probs
            try:
                async with self.free:
                    return await self._candidate(ask)
            except openai.BadRequestError as error:
                if not (asked_log_probs and "logprobs" in str(error)):
                    raise ValueError(f"the policy's server refuses a request: {error}") from None
                self.has_log_probs = False
                logger.info("%s gives no log-probabilities", self.server.url)
            except openai.APIStatusError as error:
                raise ConnectionError(f"the policy's server fails: {error}") from None
            except Exception as error:  # whatever breaks a stream, by the HTTP library beneath
                if attempt == self.options.max_retries:
                    raise ConnectionError(f"the policy's server fails: {error}") from None
                await asyncio.sleep(min(0.5 * 2**attempt, 30))
        raise ConnectionError("the policy's server fails")

    async def _candidate(self, ask: Ask) -> Candidate:
        scanner = None if ask.whole else SentenceScanner()
        chunks = await self.client.chat.completions.create(**self.body(ask))
        try:
            return await read(chunks, GrowingCandidate(ask.temperature, ask.text, scanner))
        finally:
            await chunks.close()  # the server stops writing

    def body(self, ask: Ask) -> dict[str, Any]:
        """Return the request for a candidate."""
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": self._messages(ask),
            "stream": True,
            "temperature": ask.temperature,
            "max_tokens": ask.max_tokens,
        }
        if ask.temperature:
            body |= {"top_p": self.options.top_p} | ({"seed": ask.seed} if self.options.seeds else {})
        extra: dict[str, Any] = dict(CONTINUE) if ask.text else {}
        if self.server.is_extended:  # the end is never the first token of a step
            extra |= {"min_tokens": 1}
        if self.options.template:
            extra["chat_template_kwargs"] = dict(self.options.template)
        return body | ({"logprobs": True} if self.has_log_probs else {}) | {"extra_body": extra}

    def _messages(self, ask: Ask) -> list[dict[str, Any]]:
        image: dict[str, Any] = {"type": "image_url", "image_url": {"url": ask.image_url}}
        if self.server.is_extended:
            image["uuid"] = ask.image_key  # known again, the image is not encoded a second time
        given = [{"role": "assistant", "content": ask.text}] if ask.text else []
        return [*_turns(ask.prompt, image), *given]


def _turns(prompt: Prompt, image: dict[str, Any]) -> Sequence[dict[str, Any]]:
    if not isinstance(prompt, Conversation):
        return [{"role": "user", "content": [image, {"type": "text", "text": prompt}]}]
    return [
        {
            "role": turn.role,
            "content": [image, {"type": "text", "text": turn.text}] if i == prompt.image_turn else turn.text,
        }
        for i, turn in enumerate(prompt.turns)
    ]
