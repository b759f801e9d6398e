"""Scores from afar: images sent where they lack, one query at fault alone, lost replicas asked again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import ReplicaUnavailableError

from actors.serving import remote_scorer
from actors.serving.remote_scorer import Query, RemoteScorer, ScorerReplica
from actors.serving.retry import is_lost, persist, refusal
from tests.support.endpoint import decoded, png
from tests.support.fakes import FakeScorer
from visvm.records import Question


def question(shade: int, *sentences: str) -> Question:
    ended = tuple(False for _ in sentences)
    return Question(decoded(png(shade)), "Describe.", ("Before.",), sentences, ended)


class Replica(ScorerReplica):
    """A replica at hand, behind what looks like a handle; it dies as often as ``deaths`` says."""

    def __init__(self, *, max_images: int = 2, deaths: int = 0) -> None:
        super().__init__(FakeScorer(lambda one, i: len(one.sentences[i])), max_images=max_images)
        self.deaths, self.sent, self.routed = deaths, [], []  # type: ignore[var-annotated]

    def options(self, *, session_id: str) -> Any:
        self.routed.append(session_id)
        return self

    async def remote(self, query: Query) -> Any:
        if self.deaths:
            self.deaths -= 1
            raise ActorDiedError
        self.sent.append(query.data)
        [answer] = super().score([query])
        return answer

    @property
    def score(self) -> Any:  # type: ignore[override]
        return self


def test_images_are_kept_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 3 * decoded(png(0)).pil.width * decoded(png(0)).pil.height
    monkeypatch.setattr(remote_scorer, "MAX_BYTES", 2 * size)
    replica = ScorerReplica(FakeScorer(), max_images=64)
    fields = (("Describe.", (), ("A.",), (False,)),)
    for shade in range(4):
        assert replica.score([Query(decoded(png(shade)).content_hash, fields, png(shade))]) != [None]
    assert list(replica.images) == [decoded(png(shade)).content_hash for shade in (2, 3)]
    monkeypatch.setattr(remote_scorer, "MAX_BYTES", size - 1)
    [answer] = replica.score([Query(decoded(png(5)).content_hash, fields, png(5))])
    assert isinstance(answer, list) and not replica.images


def test_a_image_is_sent_once_to_the_replica_that_its_content_names() -> None:
    replica = Replica()
    remote = RemoteScorer(replica)

    async def ask() -> list[Any]:
        one = question(1, "A.", "A dog.")
        return [await remote.score([one], png(1)), await remote.score([one, one], png(1))]

    assert asyncio.run(ask()) == [[[2, 6]], [[2, 6], [2, 6]]]
    assert replica.sent == [None, png(1), None]
    assert set(replica.routed) == {decoded(png(1)).content_hash}


def test_a_lost_replica_is_asked_again() -> None:
    replica = Replica(deaths=2)
    assert asyncio.run(RemoteScorer(replica).score([question(1, "A.")], png(1))) == [[2]]


def query(shade: int, *, data: bool, text: str = "A.") -> Query:
    fields = (("Describe.", (), (text,), (False,)),)
    return Query(decoded(png(shade)).content_hash, fields, png(shade) if data else None)


def test_the_last_images_stay_known() -> None:
    replica = ScorerReplica(FakeScorer(), max_images=2)
    assert None not in replica.score([query(i, data=True) for i in range(3)])
    answers = replica.score([query(i, data=False) for i in range(3)])
    assert [answer is None for answer in answers] == [True, False, False]
    replica.score([query(1, data=False), query(3, data=True)])
    assert [a is None for a in replica.score([query(i, data=False) for i in (1, 2, 3)])] == [
        False,
        True,
        False,
    ]


def test_a_query_that_fails_fails_alone() -> None:
    def rule(one: Question, i: int) -> float:
        if one.sentences[i] == "bad":
            raise ValueError("no room for this image")
        return 1.0

    replica = ScorerReplica(FakeScorer(rule), max_images=9)
    answers = replica.score([query(i, data=True, text="bad" if i == 1 else "A.") for i in range(3)])
    assert answers[0] == answers[2] == [[1.0]] and isinstance(answers[1], ValueError)
    spoilt = Query("key", query(0, data=False).questions, b"no image")
    answers = replica.score([query(0, data=True), spoilt])
    assert answers[0] == [[1.0]] and isinstance(answers[1], ValueError)


def test_what_is_lost_and_what_is_told_of_it() -> None:
    own = RayTaskError("score", "secret traceback", ValueError("secret")).as_instanceof_cause()
    assert is_lost(ActorDiedError()) and is_lost(ReplicaUnavailableError("replica"))
    assert not is_lost(own) and not is_lost(ValueError())
    assert [refusal(error).status for error in (ActorDiedError(), own, ValueError("so"))] == [503, 500, 400]
    assert "secret" not in str(refusal(own).body())


def test_there_is_an_end_to_trying() -> None:
    calls = []

    async def die() -> None:
        calls.append(1)
        raise ActorDiedError

    with pytest.raises(ActorDiedError):
        asyncio.run(persist(die, num_tries=3))
    assert len(calls) == 3
