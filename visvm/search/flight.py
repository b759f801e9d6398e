"""Many captions in flight: each search goes on as soon as its answer is there, whatever the others do.

A search is a coroutine that asks a ``Desk`` for candidates and scores. The captions' rows are decoded
together; one that waits for scores leaves its rows to others, and a new picture is opened as soon as one
is done. So there is no barrier at the end of a sentence, and no clock: the order of work, and with it
every result, depends on the requests alone. ``fly`` takes a list of requests; ``visvm.search.live`` those
that come at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from visvm.records import Branch, Candidate, Policy, Question, Request, Scorer, TraceStep

Answer = TypeVar("Answer")
Result = TypeVar("Result")
Proposals = list[list[Candidate]]
Tell = Callable[[str, TraceStep | None], None]
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


def ignore(*_: Any) -> None:
    """Do nothing: for a flight that nobody follows."""


class Desk:
    """Where a search asks, commits what it has chosen, and tells of it."""

    def __init__(self, policy: Policy, tell: Tell = ignore) -> None:
        """``tell`` gets each sentence as it is chosen, and the choice, if there was one."""
        self.policy, self.tell = policy, tell

    @property
    def is_followed(self) -> bool:
        """Whether anybody wants to be told."""
        return self.tell is not ignore

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
    """A caption to write by ``write(desk, branch)``, and those who wait for it.

    ``ask`` gets the flight's questions, which ``Tower.answer`` answers. ``land`` is called once there is a
    ``result`` or an ``error``; what it raises goes through. ``tell`` follows the choices.
    """

    request: Request
    write: Write[Result]
    ask: Callable[[Flight[Result], Sequence[Question]], None]
    land: Callable[[Flight[Result]], None]
    tell: Tell = ignore
    search: Any = None  # what ``write`` gave, once a branch is open
    number: int = 0  # of the proposals it waits for
    result: Result | None = None
    error: Exception | None = None


def fly(
    policy: Policy, scorer: Scorer | None, requests: Sequence[Request], write: Write[Result]
) -> list[Result]:
    """``write(desk, branch)`` for each request, side by side; what they return, in order."""
    policy.clear()  # also of what a search that failed has left
    tower: Tower[Result] = Tower(policy)
    together = Together(tower, scorer)
    flights = [Flight(request, write, together.ask, _raise) for request in requests]
    try:
        for flight in flights:
            tower.add(flight)
        while tower.is_busy:
            tower.turn()
            together.answer()
    finally:
        tower.close()
        policy.clear()
    return [flight.result for flight in flights]  # type: ignore[misc]


def _raise(flight: Flight[Any]) -> None:
    if flight.error is not None:
        raise flight.error


class Together(Generic[Result]):
    """Answers many captions' questions by one call of a scorer."""

    def __init__(self, tower: Tower[Result], scorer: Scorer | None) -> None:
        self.tower, self.scorer = tower, scorer
        self.asking: list[tuple[Flight[Result], Sequence[Question]]] = []

    def ask(self, flight: Flight[Result], questions: Sequence[Question]) -> None:
        """Keep the questions for the next call."""
        self.asking.append((flight, questions))

    def answer(self) -> None:
        """Answer all, once enough captions wait for it or nothing is left to decode."""
        tower = self.tower
        if not self.asking or (tower.writing and len(self.asking) < SCORE_SHARE * len(tower.flights)):
            return
        assert self.scorer is not None, "this search needs a scorer"
        asking, self.asking = self.asking, []
        answers = iter(self.scorer.score([one for _, questions in asking for one in questions]))
        for flight, questions in asking:
            tower.answer(flight, [next(answers) for _ in questions])


class Tower(Generic[Result]):
    """Opens pictures and decodes for the flights it was given; not thread-safe."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.queue: deque[Flight[Result]] = deque()
        self.flights: set[Flight[Result]] = set()
        self.writing: dict[int, Flight[Result]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether there are flights that have not landed."""
        return bool(self.queue or self.flights)

    def add(self, flight: Flight[Result]) -> None:
        """Open it as soon as there is room."""
        self.queue.append(flight)

    def turn(self) -> bool:
        """Open what there is room for, write one token of every candidate that has a row; if any was."""
        is_useful = self._open(self.policy.num_free) or bool(self.writing)
        for number, proposals in self.policy.step().items():
            self._go_on(self.writing.pop(number), proposals)
        return is_useful

    def answer(self, flight: Flight[Result], answers: list[list[float]]) -> None:
        """The scores that a flight asked for."""
        if flight in self.flights:
            self._go_on(flight, answers)

    def fail(self, flight: Flight[Result], error: Exception) -> None:
        """End a flight by an error."""
        if self.cancel(flight):
            flight.error = error
            flight.land(flight)

    def cancel(self, flight: Flight[Result]) -> bool:
        """Give a flight up, with its rows and its place; whether it had not landed."""
        if flight in self.flights:
            self.flights.discard(flight)
            if self.writing.pop(flight.number, None) is not None:
                self.policy.cancel(flight.number)
            flight.search.close()
        elif flight in self.queue:
            self.queue.remove(flight)
        else:
            return False
        return True

    def close(self) -> None:
        """Give up all that is not done."""
        for flight in self.flights:
            flight.search.close()

    def _open(self, room: int) -> bool:
        """Take off as many flights as there is room for; whether there were any."""
        waiting = [self.queue[i] for i in range(min(room, len(self.queue)))]
        if not waiting:
            return False
        try:
            branches = self.policy.open([flight.request for flight in waiting])
        except Exception as error:
            if len(waiting) > 1:
                return self._open(1)  # the one at fault will stand alone
            self.fail(waiting[0], error)
            return True
        assert branches or self.flights, "a picture had no room though none was open"
        for branch in branches:
            self._start(self.queue.popleft(), branch)
        return bool(branches)

    def _start(self, flight: Flight[Result], branch: Branch) -> None:
        flight.search = flight.write(Desk(self.policy, flight.tell), branch)
        self.flights.add(flight)
        self._go_on(flight, None)

    def _go_on(self, flight: Flight[Result], answer: Any) -> None:
        """Answer a search, and see to what it asks next, or land it."""
        try:
            ask = flight.search.send(answer)
        except StopIteration as stop:
            flight.result = stop.value
        except Exception as error:
            flight.error = error
        else:
            self._ask(flight, ask)
            return
        self.flights.discard(flight)
        flight.land(flight)

    def _ask(self, flight: Flight[Result], ask: Ask[Any]) -> None:
        if ask.questions:
            flight.ask(flight, ask.questions)
            return
        flight.number = self.policy.submit(ask.branches, ask.temperatures, whole=ask.whole)
        self.writing[flight.number] = flight
