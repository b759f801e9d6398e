"""``Policy`` over OpenAI's chat API: candidates are concurrent streams that continue the caption so far."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast
from weakref import WeakSet

from visvm.records import Branch, Candidate, DecodedImage, Request
from visvm.sentences import split_sentences
from visvm.server_policy.client import Ask, ChatClient, ServerOptions
from visvm.server_policy.probe import data_url, find_server

WAIT_SECONDS = 0.05  # a step waits so long for the next candidates


class OpenImage:
    """An image in use: its place is free again when no branch holds it any more."""

    def __init__(self, image: DecodedImage) -> None:
        self.image = image

    @cached_property
    def url(self) -> str:
        """The image as a data: URL."""
        return data_url(self.image.pil)


@dataclass(frozen=True)
class ServerBranch:
    """A caption in progress at a server. The server does not tell the tokens of a prompt: they count 0."""

    request: Request
    opened: OpenImage
    text: str = ""
    sentences: tuple[str, ...] = ()
    num_tokens: int = 0
    num_prompt_tokens: int = 0
    ended: bool = False


class ServerPolicy:
    """A ``Policy`` whose model another process serves.

    Greedy candidates are the server's greedy text. Sampled ones follow from the seed where the server
    honours seeds. Token ids are not known (-1 each); log-probabilities are NaN where it gives none.
    """

    def __init__(self, name: str, **options: Any) -> None:
        """``name`` is "http://HOST/v1#MODEL"; ``options`` are fields of ``ServerOptions``.

        Raises:
            ValueError: the server does not answer or does not serve the model.
        """
        self.options, self.server = ServerOptions(**options), find_server(name)
        self._opened: WeakSet[OpenImage] = WeakSet()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._number = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="server-policy", daemon=True).start()
        self._client = self._run(self._connect())

    @property
    def num_free(self) -> int:
        """How many more captions may be begun now."""
        return self.options.max_images - len(self._opened)

    @property
    def is_busy(self) -> bool:
        """Whether candidates are being written."""
        return bool(self._pending)

    def usage(self) -> dict[str, int]:
        """Return what is in use now: submissions at the server, and captions in progress."""
        return {"rows": len(self._pending), "rows_waiting": 0, "images": len(self._opened)}

    def open(self, requests: Sequence[Request]) -> list[Branch]:
        """Return an empty branch for each of the first requests that fit; nothing is sent yet."""
        opened = []
        for request in requests[: max(self.num_free, 0)]:
            if request.unit != "sentence":
                raise ValueError(f"unit = {request.unit!r}: a policy behind a server writes sentences only")
            place = OpenImage(request.image)
            self._opened.add(place)
            start = tuple(split_sentences(request.start))
            opened.append(cast(Branch, ServerBranch(request, place, request.start, start)))
        return opened

    def submit(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> int:
        """Ask the server for one candidate per temperature of each branch; see ``Policy.submit``.

        Raises:
            ValueError: a branch has ended already.
        """
        asks = [
            [_ask(_live(one), t, j, whole, self.options) for j, t in enumerate(temperatures)]
            for one in branches
        ]
        self._number += 1
        future: Any = asyncio.run_coroutine_threadsafe(self._candidates(self._number, asks), self._loop)
        self._pending[self._number] = future
        return self._number

    def step(self) -> dict[int, list[list[Candidate]] | Exception]:
        """Wait a moment; return the submissions that are complete or failed by now."""
        done: dict[int, list[list[Candidate]] | Exception] = {}
        wait = WAIT_SECONDS if self._pending else 0
        while True:
            try:
                number, result = self._done.get(timeout=wait) if wait else self._done.get_nowait()
            except queue.Empty:
                return done
            if self._pending.pop(number, None) is not None:
                done[number], wait = result, 0

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """Append one candidate to each branch; the given branches stay usable."""
        return [
            cast(Branch, _commit(_live(one), candidate))
            for one, candidate in zip(branches, chosen, strict=True)
        ]

    def cancel(self, number: int) -> None:
        """Drop a submission; the server stops writing it."""
        if (future := self._pending.pop(number, None)) is not None:
            future.cancel()

    def clear(self) -> None:
        """Drop all submissions."""
        for number in list(self._pending):
            self.cancel(number)

    def close(self) -> None:
        """Drop all submissions and end the connections."""
        self.clear()
        self._run(self._client.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _connect(self) -> ChatClient:
        return ChatClient(self.server, self.options)

    async def _candidates(self, number: int, asks: list[list[Ask]]) -> None:
        tasks = [[asyncio.ensure_future(self._client.candidate(ask)) for ask in group] for group in asks]
        flat = [task for group in tasks for task in group]
        try:
            await asyncio.gather(*flat)
            self._done.put((number, [[task.result() for task in group] for group in tasks]))
        except Exception as error:
            self._done.put((number, error))
        finally:
            for task in flat:
                task.cancel()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _ask(branch: ServerBranch, temperature: float, index: int, whole: bool, options: ServerOptions) -> Ask:
    request = branch.request
    most = min(options.max_new_tokens, request.max_tokens or options.max_new_tokens)
    key = (request.seed, request.image.content_hash, str(request.prompt), branch.text, index)
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big") >> 1
    given = (request.prompt, branch.opened.url, request.image.content_hash, branch.text, temperature, seed)
    return Ask(*given, max_tokens=max(1, most - branch.num_tokens), whole=whole)


def _commit(branch: ServerBranch, candidate: Candidate) -> ServerBranch:
    return ServerBranch(
        branch.request,
        branch.opened,
        branch.text + candidate.text,
        (*branch.sentences, *split_sentences(candidate.text)),
        branch.num_tokens + len(candidate.token_ids),
        ended=candidate.ended,
    )


def _live(branch: Branch) -> ServerBranch:
    if not isinstance(branch, ServerBranch):
        raise ValueError(f"a branch of another policy was given: {type(branch).__name__}")
    if branch.ended:
        raise ValueError(f"the caption of image {branch.request.image.id!r} has ended already")
    return branch
