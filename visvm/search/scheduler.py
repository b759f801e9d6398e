"""Run many searches concurrently, each resuming as soon as its own answer is ready.

A search is a coroutine that awaits candidates and scores from its ``SearchContext``. The rows of all captions
are decoded in one batch. A caption that waits for scores frees its rows, and a new image is opened as soon
as a caption is done. There is no barrier at the end of a sentence and no clock: the order of work, and
therefore every result, depends on the requests alone.

``run_searches`` takes a list of requests, ``run_tasks`` yields after each turn;
``scheduler_thread`` takes requests that arrive at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any, Generic, TypeVar

from visvm.records import (
    Branch,
    Candidate,
    CandidateScorer,
    Policy,
    Question,
    Request,
    Scorer,
    TraceStep,
)

Answer = TypeVar("Answer")
Result = TypeVar("Result")
Proposals = list[list[Candidate]]
OnStep = Callable[[str, TraceStep | None], None]
SCORE_SHARE = 0.25  # share of the running captions that must wait for scores before the scorer is called


@dataclass(frozen=True, eq=False)
class SearchCall(Generic[Answer]):
    """A call that a search awaits: candidates from the policy (``branches``) or scores (``questions``)."""

    branches: Sequence[Branch] = ()
    temperatures: Sequence[float] = ()
    whole: bool = False
    questions: Sequence[Question] = ()

    def __await__(self) -> Generator[SearchCall[Answer], Answer, Answer]:
        return (yield self)


def ignore(*_: Any) -> None:
    """Do nothing: the default callback."""


class SearchContext:
    """What a search may do: propose, score, commit, and report each chosen sentence."""

    def __init__(self, policy: Policy, on_step: OnStep = ignore, head: CandidateScorer | None = None) -> None:
        """``on_step`` receives each sentence as it is chosen, and the choice if there was one.

        ``head`` scores candidates without a question.
        """
        self.policy, self.on_step, self.head = policy, on_step, head

    @property
    def is_streaming(self) -> bool:
        """Whether each sentence is reported as it is chosen."""
        return self.on_step is not ignore

    def propose(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> SearchCall[Proposals]:
        """Propose one candidate per temperature for each branch; see ``Policy.submit``."""
        return SearchCall(branches=branches, temperatures=temperatures, whole=whole)

    def score(self, questions: Sequence[Question]) -> SearchCall[list[list[float]]]:
        """Score candidate sentences; see ``Scorer.score``."""
        return SearchCall(questions=questions)

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """Append one candidate to each branch; see ``Policy.commit``."""
        return self.policy.commit(branches, chosen)


Write = Callable[[SearchContext, Branch], Coroutine[SearchCall[Any], Any, Result]]


@dataclass(eq=False)
class SearchTask(Generic[Result]):
    """One caption to write by ``write(context, branch)``, with the callbacks of its owner.

    ``on_questions`` receives the questions of the task; pass the answers to ``Scheduler.answer``. ``on_done``
    is called once, when ``result`` or ``error`` is set; what it raises propagates. ``on_step`` receives each
    chosen sentence.
    """

    request: Request
    write: Write[Result]
    on_questions: Callable[[SearchTask[Result], Sequence[Question]], None] = ignore
    on_done: Callable[[SearchTask[Result]], None] = ignore
    on_step: OnStep = ignore
    head: CandidateScorer | None = None
    search: Any = None  # the coroutine, once a branch is open
    number: int = 0  # of the submitted proposals that it waits for
    result: Result | None = None
    error: Exception | None = None


def run_searches(
    policy: Policy, scorer: Scorer | None, requests: Sequence[Request], write: Write[Result]
) -> list[Result]:
    """Run ``write(context, branch)`` for every request, interleaved; return the results in order."""
    tasks = [SearchTask(request, write, on_done=_raise) for request in requests]
    for _ in run_tasks(policy, scorer, tasks):
        pass
    return [task.result for task in tasks]  # type: ignore[misc]


def run_tasks(
    policy: Policy, scorer: Scorer | None, tasks: Sequence[SearchTask[Result]]
) -> Generator[None, None, None]:
    """Run tasks to their ends; yield after each turn. The policy must have nothing else to do."""
    policy.clear()  # a search that failed may have left work behind
    scheduler: Scheduler[Result] = Scheduler(policy)
    batcher = ScoreBatcher(scheduler, scorer)
    try:
        for task in tasks:
            task.on_questions, task.head = batcher.on_questions, head_of(scorer)
            scheduler.add(task)
        while scheduler.is_busy:
            scheduler.turn()
            batcher.answer()
            yield
    finally:
        scheduler.close()
        policy.clear()


def head_of(scorer: Any) -> CandidateScorer | None:
    """Return ``scorer`` if it scores candidates by the states they were written with."""
    return scorer if isinstance(scorer, CandidateScorer) and scorer.is_free else None


def _raise(task: SearchTask[Any]) -> None:
    if task.error is not None:
        raise task.error


class ScoreBatcher(Generic[Result]):
    """Answer the questions of many captions with one call of the scorer."""

    def __init__(self, scheduler: Scheduler[Result], scorer: Scorer | None) -> None:
        self.scheduler, self.scorer = scheduler, scorer
        self.pending: list[tuple[SearchTask[Result], Sequence[Question]]] = []

    def on_questions(self, task: SearchTask[Result], questions: Sequence[Question]) -> None:
        """Queue the questions for the next call."""
        self.pending.append((task, questions))

    def answer(self) -> None:
        """Answer all queued questions once enough captions wait, or nothing is left to decode."""
        scheduler = self.scheduler
        if not self.pending or (scheduler.writing and len(self.pending) < SCORE_SHARE * len(scheduler.tasks)):
            return
        if self.scorer is None:
            raise ValueError("this search asks for scores and has no scorer: set its `needs`, or give one")
        pending, self.pending = self.pending, []
        flat = [one for _, questions in pending for one in questions]
        scores = self.scorer.score(flat)
        if len(scores) != len(flat):
            raise ValueError(f"the scorer answered {len(scores)} of {len(flat)} questions")
        answers = iter(scores)
        for task, questions in pending:
            scheduler.answer(task, [next(answers) for _ in questions])


class Scheduler(Generic[Result]):
    """Open images and decode tokens for its tasks; not thread-safe."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.queue: deque[SearchTask[Result]] = deque()
        self.tasks: set[SearchTask[Result]] = set()
        self.writing: dict[int, SearchTask[Result]] = {}

    @property
    def is_busy(self) -> bool:
        """Whether any task is still queued or running."""
        return bool(self.queue or self.tasks)

    def add(self, task: SearchTask[Result]) -> None:
        """Queue a task; it is opened as soon as the policy has a free image slot."""
        self.queue.append(task)

    def turn(self) -> bool:
        """Open the tasks there is room for, decode one token of every row; return whether work was done."""
        # With nothing open there is always a place: a request that has none by itself fails, and none waits.
        is_useful = self._open(max(self.policy.num_free, not self.tasks)) or bool(self.writing)
        for number, proposals in self.policy.step().items():
            if isinstance(proposals, Exception):
                self.fail(self.writing[number], proposals)
            else:
                self._resume(self.writing.pop(number), proposals)
        return is_useful

    def answer(self, task: SearchTask[Result], answers: list[list[float]]) -> None:
        """Give a task the scores it asked for; one that is NaN fails the task, as it has no rank."""
        if any(isnan(score) for scores in answers for score in scores):
            self.fail(task, FloatingPointError("the scorer returned nan; a search needs finite scores"))
        elif task in self.tasks:
            self._resume(task, answers)

    def fail(self, task: SearchTask[Result], error: Exception) -> None:
        """End a task with an error."""
        if self.cancel(task):
            task.error = error
            task.on_done(task)

    def cancel(self, task: SearchTask[Result]) -> bool:
        """Drop a task, its rows and its image slot, without ``on_done``; return whether it was unfinished."""
        if task in self.tasks:
            self.tasks.discard(task)
            if self.writing.pop(task.number, None) is not None:
                self.policy.cancel(task.number)
            task.search.close()
        elif task in self.queue:
            self.queue.remove(task)
        else:
            return False
        return True

    def close(self) -> None:
        """Close the coroutine of every running task."""
        for task in self.tasks:
            task.search.close()

    def _open(self, room: int) -> bool:
        """Open as many queued tasks as there is room for; return whether there were any."""
        waiting = [self.queue[i] for i in range(min(room, len(self.queue)))]
        if not waiting:
            return False
        try:
            branches = self.policy.open([task.request for task in waiting])
        except Exception as error:
            if len(waiting) > 1:
                return self._open(1)  # isolates the request at fault
            self.fail(waiting[0], error)
            return True
        assert branches or self.tasks, "the policy has no room for an image though none is open"
        for branch in branches:
            self._start(self.queue.popleft(), branch)
        return bool(branches)

    def _start(self, task: SearchTask[Result], branch: Branch) -> None:
        task.search = task.write(SearchContext(self.policy, task.on_step, task.head), branch)
        self.tasks.add(task)
        self._resume(task, None)

    def _resume(self, task: SearchTask[Result], answer: Any) -> None:
        """Send a search its answer; dispatch its next call, or finish it."""
        try:
            call = task.search.send(answer)
        except StopIteration as stop:
            task.result = stop.value
        except Exception as error:
            task.error = error
        else:
            self._dispatch(task, call)
            return
        self.tasks.discard(task)
        task.on_done(task)

    def _dispatch(self, task: SearchTask[Result], call: SearchCall[Any]) -> None:
        if call.questions:
            task.on_questions(task, call.questions)
            return
        task.number = self.policy.submit(call.branches, call.temperatures, whole=call.whole)
        self.writing[task.number] = task
