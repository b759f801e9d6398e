"""Many captions in flight: each search goes on as soon as its answer is there, whatever the others do.

A search is a coroutine that asks a ``Desk`` for candidates and scores. The captions' rows are decoded
together; one that waits for scores leaves its rows to others, and a new picture is opened as soon as one
is done. So there is no barrier at the end of a sentence, and no clock: the order of work, and with it
every result, depends on the requests alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from visvm.records import Branch, Candidate, Policy, Question, Request, Scorer

Answer = TypeVar("Answer")
Result = TypeVar("Result")
Proposals = list[list[Candidate]]
SCORE_SHARE = 0.25  # of the captions in flight must wait for scores before those with rows wait too


@dataclass(frozen=True, eq=False)
class Ask(Generic[Answer]):
    """A question to the policy (``branches``) or the scorer (``questions``); awaited, its answer."""

    branches: Sequence[Branch] = ()
    temperatures: Sequence[float] = ()
    whole: bool = False
    questions: Sequence[Question] = ()

    def __await__(self) -> Generator[Ask[Answer], Answer, Answer]:
        return (yield self)


class Desk:
    """Where a search asks, and commits what it has chosen."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def propose(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> Ask[Proposals]:
        """For each branch one candidate a temperature, as ``Policy.submit``."""
        return Ask(branches=branches, temperatures=temperatures, whole=whole)

    def score(self, questions: Sequence[Question]) -> Ask[list[list[float]]]:
        """As ``Scorer.score``."""
        return Ask(questions=questions)

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """As ``Policy.commit``."""
        return self.policy.commit(branches, chosen)


Write = Callable[[Desk, Branch], Coroutine[Ask[Any], Any, Result]]


@dataclass(eq=False)
class Flight(Generic[Result]):
    """A caption in flight, and the place of its request."""

    place: int
    search: Coroutine[Ask[Any], Any, Result]


def fly(
    policy: Policy, scorer: Scorer | None, requests: Sequence[Request], write: Write[Result]
) -> list[Result]:
    """``write(desk, branch)`` for each request, side by side; what they return, in order."""
    policy.clear()  # also of what a search that failed has left
    tower = Tower(policy, scorer, write)
    try:
        return tower.run(requests)
    finally:
        tower.close()
        policy.clear()


class Tower(Generic[Result]):
    """Opens, decodes and scores in turn until every caption is done."""

    def __init__(self, policy: Policy, scorer: Scorer | None, write: Write[Result]) -> None:
        self.policy, self.scorer, self.write = policy, scorer, write
        self.desk = Desk(policy)
        self.queue: deque[tuple[int, Request]] = deque()
        self.flights: set[Flight[Result]] = set()
        self.writing: dict[int, Flight[Result]] = {}
        self.asking: list[tuple[Flight[Result], Sequence[Question]]] = []
        self.results: dict[int, Result] = {}

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """The result of each request, in order."""
        self.queue = deque(enumerate(requests))
        while self.queue or self.flights:
            self._open()
            self._decode()
            self._score()
        return [self.results[place] for place in range(len(requests))]

    def close(self) -> None:
        """Give up what is not done."""
        for flight in self.flights:
            flight.search.close()

    def _open(self) -> None:
        """Take off as many captions as there is room for."""
        room = self.policy.num_free
        waiting = [self.queue[i] for i in range(min(room, len(self.queue)))]
        if not waiting:
            return
        branches = self.policy.open([request for _, request in waiting])
        assert branches or self.flights, "a picture had no room though none was open"
        for branch in branches:
            place, _ = self.queue.popleft()
            flight = Flight(place, self.write(self.desk, branch))
            self.flights.add(flight)
            self._go_on(flight, None)

    def _decode(self) -> None:
        """One token of every candidate that has a row."""
        for number, proposals in self.policy.step().items():
            self._go_on(self.writing.pop(number), proposals)

    def _score(self) -> None:
        """Answer all questions, once enough captions wait for it or nothing is left to decode."""
        if not self.asking or (self.writing and len(self.asking) < SCORE_SHARE * len(self.flights)):
            return
        assert self.scorer is not None, "this search needs a scorer"
        asking, self.asking = self.asking, []
        answers = iter(self.scorer.score([one for _, questions in asking for one in questions]))
        for flight, questions in asking:
            self._go_on(flight, [next(answers) for _ in questions])

    def _go_on(self, flight: Flight[Result], answer: Any) -> None:
        """Answer a search, and note what it asks next, or its result."""
        try:
            ask = flight.search.send(answer)
        except StopIteration as stop:
            self.flights.discard(flight)
            self.results[flight.place] = stop.value
            return
        if ask.questions:
            self.asking.append((flight, ask.questions))
        else:
            number = self.policy.submit(ask.branches, ask.temperatures, whole=ask.whole)
            self.writing[number] = flight
