"""The search part asked of another server of the same model, such as vLLM, through OpenAI's chat API.

It gets the same work: all images at once, every candidate of a sentence as a request of its own that goes on
from the caption so far. Sampled tokens are words that a tokenizer gives back unchanged, so that the server
finds the whole caption in its prefix cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from visvm.benchmark.sizes import WORDS
from visvm.benchmark.workload import Workload
from visvm.records import DecodedImage
from visvm.server_policy.client import Ask, ChatClient, ServerOptions
from visvm.server_policy.probe import Server, data_url, find_server

Write = Callable[["Peer", DecodedImage], Coroutine[Any, Any, int]]


@dataclass(frozen=True)
class Peer:
    """A server while the images of a part are described; ``words`` are the tokens that are sampled."""

    client: ChatClient
    workload: Workload
    words: tuple[int, ...]

    async def write(self, image: DecodedImage, text: str, temperature: float, length: int) -> str:
        """Return ``length`` tokens that go on from ``text``.

        Raises:
            ValueError: the server wrote another number of tokens.
        """
        given = (self.workload.prompts[0], data_url(image.pil), image.content_hash, text, temperature, 0)
        body = self.client.body(Ask(*given, max_tokens=length, whole=True)) | {"stream": False}
        body["extra_body"] |= {"ignore_eos": True, "min_tokens": length, "allowed_token_ids": self.words}
        answer = await self.client.client.chat.completions.create(**body)
        if (num := answer.usage.completion_tokens) != length:
            raise ValueError(f"the peer wrote {num} tokens where {length} were asked for: is it vLLM?")
        return str(answer.choices[0].message.content)


def load(name: str, tokenizer: Any, images: Sequence[DecodedImage], workload: Workload, write: Write) -> Any:
    """Return the program that writes a caption of each image at the server "http://HOST/v1#MODEL"."""
    words = tuple(tokenizer.encode(" " + word, add_special_tokens=False)[0] for word in WORDS)
    options = ServerOptions(seeds=False)
    return partial(_run, find_server(name), options, (workload, words), images, write)


def _run(
    server: Server, options: ServerOptions, work: tuple[Any, ...], images: Sequence[Any], write: Write
) -> int:
    async def all_images() -> int:
        client = ChatClient(server, options)
        client.has_log_probs = False
        try:
            return sum(await asyncio.gather(*(write(Peer(client, *work), image) for image in images)))
        finally:
            await client.client.close()

    return asyncio.run(all_images())


async def search(peer: Peer, image: DecodedImage) -> int:
    """Write a caption by stepwise search, the last candidate always kept; return the tokens sampled."""
    workload, text = peer.workload, ""
    for _ in range(workload.num_sentences):
        candidates = (peer.write(image, text, t, workload.sentence_length) for t in workload.temperatures)
        text += (await asyncio.gather(*candidates))[-1]
    return workload.caption_length * len(workload.temperatures)


async def greedy(peer: Peer, image: DecodedImage) -> int:
    """Write a caption by greedy decoding; return its tokens."""
    await peer.write(image, "", 0.0, peer.workload.caption_length)
    return peer.workload.caption_length


def clock(url: str) -> Callable[[], float]:
    """Return the clock of a server: the CPU seconds of its processes, or wall time if it is elsewhere."""
    import psutil

    port = urlsplit(url).port
    for one in psutil.net_connections("tcp") if _is_here(url) else ():
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
            return partial(_cpu_seconds, psutil.Process(one.pid))
    return time.perf_counter


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _cpu_seconds(process: Any) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))
