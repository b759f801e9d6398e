"""Scorers in other processes: what their replicas hold, and how a policy asks them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.serving.retry import persist
from visvm.images import decode
from visvm.records import DecodedImage, Prompt, Question, Scorer

NUM_TRIES = 20  # with the waits between them, enough for Serve to replace a replica
MAX_BYTES = 256 * 2**20  # of decoded images; one of 32 MP takes 96 MiB
Scores = list[list[float]]


@dataclass(frozen=True)
class Query:
    """Questions about one image.

    ``key`` is the image's content hash; ``data`` is its file, sent only to a replica that lacks the image.
    """

    key: str
    questions: tuple[tuple[Prompt, tuple[str, ...], tuple[str, ...], tuple[bool, ...]], ...]
    data: bytes | None = None

    def about(self, image: DecodedImage) -> list[Question]:
        """Return the questions as questions about ``image``."""
        return [Question(image, *fields) for fields in self.questions]


class ScorerReplica:
    """A ``Scorer`` shared by many policies; it keeps the images used last: ``max_images`` in MAX_BYTES."""

    def __init__(self, scorer: Scorer, *, max_images: int) -> None:
        self.scorer, self.max_images = scorer, max_images
        self.images: OrderedDict[str, DecodedImage] = OrderedDict()

    def score(self, queries: Sequence[Query]) -> list[Scores | Exception | None]:
        """Return for each query its scores, None if its image must be sent, or the error it caused."""
        answers: list[Scores | Exception | None] = [self._see(query) for query in queries]
        known = [i for i, query in enumerate(queries) if query.key in self.images]
        for i, answer in zip(known, self._answer([queries[i] for i in known]), strict=True):
            answers[i] = answer
        while len(self.images) > self.max_images or self._num_bytes() > MAX_BYTES:
            self.images.popitem(last=False)
        return answers

    def _num_bytes(self) -> int:
        """Return what the decoded images take in memory."""
        return sum(3 * image.pil.width * image.pil.height for image in self.images.values())

    def _see(self, query: Query) -> Exception | None:
        """Keep the query's image if it was sent; return the error if it cannot be decoded."""
        try:
            if query.data is not None and query.key not in self.images:
                self.images[query.key] = decode(query.data, id=query.key, uri="the image")
        except ValueError as error:
            return error
        if query.key in self.images:
            self.images.move_to_end(query.key)
        return None

    def _answer(self, queries: Sequence[Query]) -> list[Scores | Exception]:
        """Score all queries in one pass; if that fails, one by one, so that only bad ones get an error."""
        questions = [query.about(self.images[query.key]) for query in queries]
        try:
            scores = iter(self.scorer.score([one for part in questions for one in part]))
        except Exception as error:
            if len(queries) == 1:
                return [error]
            return [self._answer([query])[0] for query in queries]
        return [[next(scores) for _ in part] for part in questions]


class RemoteScorer:
    """Ask the replica that is likely to have the image; send the image only if it lacks it."""

    def __init__(self, handle: Any) -> None:
        """``handle`` is of a deployment that routes by session id and whose ``score`` takes a ``Query``."""
        self.handle = handle

    async def score(self, questions: Sequence[Question], data: bytes) -> Scores:
        """Return the scores of questions that are all about the image in the file ``data``."""
        key = questions[0].image.content_hash
        fields = tuple((one.prompt, one.prefix, one.sentences, one.ended) for one in questions)
        handle = self.handle.options(session_id=key)

        async def ask() -> Scores:
            scores = await handle.score.remote(Query(key, fields))
            if scores is None:
                scores = await handle.score.remote(Query(key, fields, data))
            assert scores is not None, "the replica lacks an image that was just sent"
            return scores

        return await persist(ask, num_tries=NUM_TRIES)
