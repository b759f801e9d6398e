"""Arithmetic fakes of policy and scorer: deterministic, without torch, fast enough for hypothesis."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from visvm.records import Branch, Candidate, DecodedImage, Question, Request
from visvm.sentences import split_sentences

WORDS = ("cat", "dog", "cup", "chair", "clock", "bench", "kite", "sheep")


def draw(*parts: object) -> int:
    """Return a number that depends on ``parts`` alone."""
    return zlib.crc32(repr(parts).encode())


def request(image_id: str = "1", *, prompt: str = "Describe.", seed: int = 0) -> Request:
    return Request(
        DecodedImage(image_id, f"{image_id}.png", image_id, Image.new("RGB", (2, 2))), prompt, seed
    )


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, which another thread or process brings about; fail after minutes."""
    deadline = time.monotonic() + 240  # long, as the machine may be busy
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold within four minutes"
        time.sleep(0.002)


@dataclass(frozen=True)
class FakeBranch:
    request: Request
    sentences: tuple[str, ...] = ()
    ended: bool = False
    proposed: list[Candidate] = field(default_factory=list, compare=False)
    num_prompt_tokens: int = 7

    @property
    def text(self) -> str:
        return "".join(self.sentences)


def _append(branch: Branch, candidate: Candidate) -> FakeBranch:
    return FakeBranch(branch.request, (*branch.sentences, candidate.text), candidate.ended)


@dataclass
class FakePolicy:
    """Writes " A <word> of a <word>.": at temperature 0 by the text so far, above it by the draw too.

    A sentence ends the caption for one draw in ``end_one_in``; ``limit`` sentences cut it.
    """

    end_one_in: int = 5
    limit: int = 12
    proposals: list[tuple[int, int, bool]] = field(default_factory=list)
    submitted: dict[int, tuple] = field(default_factory=dict)
    num_free: int = 1000

    def open(self, requests: Sequence[Request]) -> list[FakeBranch]:
        assert requests, "nothing to open"
        return [FakeBranch(one, tuple(split_sentences(one.start))) for one in requests]

    def submit(
        self, branches: Sequence[FakeBranch], temperatures: Sequence[float], *, whole: bool = False
    ) -> int:
        number = len(self.submitted)
        self.submitted[number] = (list(branches), tuple(temperatures), whole)
        return number

    def step(self) -> dict[int, list[list[Candidate]]]:
        """Complete all submissions, equal ones in one call of ``propose``."""
        done: dict[int, list[list[Candidate]]] = {}
        submitted, self.submitted = self.submitted, {}
        for kind in dict.fromkeys(one[1:] for one in submitted.values()):
            alike = {number: one[0] for number, one in submitted.items() if one[1:] == kind}
            flat = [branch for branches in alike.values() for branch in branches]
            rows = iter(self.propose(flat, kind[0], whole=kind[1]))
            done |= {number: [next(rows) for _ in branches] for number, branches in alike.items()}
        return done

    def cancel(self, number: int) -> None:
        del self.submitted[number]

    def clear(self) -> None:
        self.submitted = {}

    def propose(
        self, branches: Sequence[FakeBranch], temperatures: Sequence[float], *, whole: bool = False
    ) -> list[list[Candidate]]:
        self.proposals.append((len(branches), len(temperatures), whole))
        write = self._whole if whole else self._sentence
        rows = [[write(branch, t, j) for j, t in enumerate(temperatures)] for branch in branches]
        for branch, row in zip(branches, rows, strict=True):
            branch.proposed.extend(row)
        return rows

    def commit(self, branches: Sequence[FakeBranch], chosen: Sequence[Candidate]) -> list[FakeBranch]:
        pairs = list(zip(branches, chosen, strict=True))
        assert all(candidate in branch.proposed for branch, candidate in pairs), "not proposed for it"
        return [_append(branch, candidate) for branch, candidate in pairs]

    def _sentence(self, branch: Branch, temperature: float, j: int) -> Candidate:
        assert not branch.ended, "an ended caption was asked to go on"
        start = branch.request
        luck = draw(start.seed, start.image.id, start.prompt, branch.text, j if temperature else "greedy")
        text = f" A {WORDS[luck % 8]} of a {WORDS[luck // 8 % 8]}."
        reason = "stop" if luck // 64 % self.end_one_in == 0 else "sentence"
        if reason == "sentence" and len(branch.sentences) + 1 >= self.limit:
            reason = "length"
        return Candidate(text, tuple(range(5 + luck % 3)), reason, temperature, -1.0)

    def _whole(self, branch: Branch, temperature: float, j: int) -> Candidate:
        parts: list[Candidate] = []
        while not branch.ended:
            parts.append(self._sentence(branch, temperature, j))
            branch = _append(branch, parts[-1])
        text = "".join(part.text for part in parts)
        tokens = tuple(token for part in parts for token in part.token_ids)
        return replace(parts[-1], text=text, token_ids=tokens)


@dataclass
class FakeScorer:
    """Scores in [0, 1) that depend on sentence and image, or are given by ``rule``."""

    rule: Callable[[Question, int], float] | None = None
    questions: list[Question] = field(default_factory=list)
    num_calls: int = 0

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        self.num_calls += 1
        self.questions += questions
        rule = self.rule or _by_sentence
        return [[rule(question, i) for i in range(len(question.sentences))] for question in questions]


def _by_sentence(question: Question, i: int) -> float:
    return draw(question.image.id, question.sentences[i]) / 2**32
