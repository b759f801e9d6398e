"""Scores from afar: what a scorer's replicas hold, and how a policy asks them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.serving.retry import persist
from visvm.images import decode
from visvm.records import DecodedImage, Question, Scorer

NUM_TRIES = 20  # with the waits between them: as long as a replica takes to be replaced
Scores = list[list[float]]


@dataclass(frozen=True)
class Query:
    """Questions about one image, named by its content; its file's ``data`` only where it is asked for."""

    key: str
    questions: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[bool, ...]], ...]
    data: bytes | None = None

    def about(self, image: DecodedImage) -> list[Question]:
        """The questions, with the image."""
        return [Question(image, *fields) for fields in self.questions]


class ScorerReplica:
    """A ``Scorer`` for many policies. The last ``max_images`` it was sent stay known by their content."""

    def __init__(self, scorer: Scorer, *, max_images: int) -> None:
        self.scorer, self.max_images = scorer, max_images
        self.images: OrderedDict[str, DecodedImage] = OrderedDict()

    def score(self, queries: Sequence[Query]) -> list[Scores | Exception | None]:
        """For each query its scores; None where the image's data is needed; or what went wrong with it."""
        answers: list[Scores | Exception | None] = [self._see(query) for query in queries]
        known = [i for i, query in enumerate(queries) if query.key in self.images]
        for i, answer in zip(known, self._answer([queries[i] for i in known]), strict=True):
            answers[i] = answer
        while len(self.images) > self.max_images:
            self.images.popitem(last=False)
        return answers

    def _see(self, query: Query) -> Exception | None:
        """Know the query's image from now on; the error if it is none."""
        try:
            if query.data is not None and query.key not in self.images:
                self.images[query.key] = decode(query.data, id=query.key, uri="the image")
        except ValueError as error:
            return error
        if query.key in self.images:
            self.images.move_to_end(query.key)
        return None

    def _answer(self, queries: Sequence[Query]) -> list[Scores | Exception]:
        """One pass for all; if that fails, one for each, so that one alone is at fault."""
        questions = [query.about(self.images[query.key]) for query in queries]
        try:
            scores = iter(self.scorer.score([one for part in questions for one in part]))
        except Exception as error:
            if len(queries) == 1:
                return [error]
            return [self._answer([query])[0] for query in queries]
        return [[next(scores) for _ in part] for part in questions]


class RemoteScorer:
    """Asks the replica that is likely to know the image; sends the image only if that does not."""

    def __init__(self, handle: Any) -> None:
        """``handle`` of a deployment that routes by session id, and whose ``score`` takes a ``Query``."""
        self.handle = handle

    async def score(self, questions: Sequence[Question], data: bytes) -> Scores:
        """The scores of questions about the one image that ``data`` is the file of."""
        key = questions[0].image.content_hash
        fields = tuple((one.prompt, one.prefix, one.sentences, one.ended) for one in questions)
        handle = self.handle.options(session_id=key)

        async def ask() -> Scores:
            scores = await handle.score.remote(Query(key, fields))
            if scores is None:
                scores = await handle.score.remote(Query(key, fields, data))
            assert scores is not None, "an image was sent and is not known"
            return scores

        return await persist(ask, num_tries=NUM_TRIES)
