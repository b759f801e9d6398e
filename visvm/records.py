"""The data that every stage passes on; ``schemas`` declares the same for files.

The three seams of the system are the Protocols here: ``Policy``, ``Scorer`` and ``Search``.
Everything else is concrete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

FinishReason = Literal["sentence", "stop", "length"]


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: upright, RGB, with the hash of its file's bytes as its identity in caches."""

    id: str
    uri: str
    content_hash: str
    pil: Image.Image = field(repr=False, compare=False)


@dataclass(frozen=True)
class Request:
    """One caption to write. The text depends on (seed, the image's content, prompt) and nothing else.

    ``max_tokens`` cuts it, where that is less than what the policy allows.
    """

    image: DecodedImage
    prompt: str
    seed: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True)
class Candidate:
    """A proposed continuation: one sentence, or all the rest of the caption.

    ``text`` is the exact continuation (leading white space included), so texts join losslessly.
    ``finish_reason`` is "stop" where the policy ended the caption right after it, "length" where
    it ran out of tokens, else "sentence". ``log_prob`` is the sum over its tokens, in nats, under
    the policy at temperature 1.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    temperature: float
    log_prob: float

    @property
    def ended(self) -> bool:
        """Whether the caption is over once this candidate is chosen."""
        return self.finish_reason != "sentence"


class Branch(Protocol):
    """A caption in progress. Immutable: ``Policy.commit`` gives a new one, the old stays usable."""

    @property
    def request(self) -> Request: ...

    @property
    def num_prompt_tokens(self) -> int: ...

    @property
    def text(self) -> str: ...

    @property
    def sentences(self) -> tuple[str, ...]: ...

    @property
    def ended(self) -> bool: ...


@runtime_checkable
class Policy(Protocol):
    """Writes captions over images that are encoded once, many at a time."""

    @property
    def num_free(self) -> int:
        """How many more images may be opened now."""
        ...

    def open(self, requests: Sequence[Request]) -> list[Branch]:
        """Encode images and prompts; an empty branch for each of the first requests there is room for."""
        ...

    def submit(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> int:
        """Ask for one candidate a temperature (0 = greedy) of each branch: a sentence, or all the rest.

        Candidate j of a branch is sampled with a seed derived from (seed, content hash, prompt,
        text so far, j), so it does not depend on what else is being written. Returns the number under which
        ``step`` gives them.
        """
        ...

    def step(self) -> dict[int, list[list[Candidate]]]:
        """Write a little of all that was submitted; what is complete now, by number."""
        ...

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """Append one candidate to each branch; the given branches stay usable."""
        ...

    def cancel(self, number: int) -> None:
        """Forget what was submitted under ``number``, which ``step`` has not given yet."""
        ...

    def clear(self) -> None:
        """Forget all that was submitted."""
        ...


@dataclass(frozen=True)
class Question:
    """Candidate next sentences of one caption, to be scored against each other.

    ``prefix`` are the sentences so far. ``ended[j]`` says that the caption ends with sentence j.
    """

    image: DecodedImage
    prompt: str
    prefix: tuple[str, ...]
    sentences: tuple[str, ...]
    ended: tuple[bool, ...]


@runtime_checkable
class Scorer(Protocol):
    """Scores candidate sentences of images; higher is better."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """One float for each sentence of each question."""
        ...


@dataclass(frozen=True)
class TraceStep:
    """One turn of a search: what was proposed, what each was worth, which one was kept."""

    candidates: tuple[Candidate, ...]
    values: tuple[float, ...]
    choice: int

    def row(self) -> dict[str, Any]:
        """As the column ``trace`` has it."""
        candidates = [
            {
                "text": candidate.text,
                "temperature": candidate.temperature,
                "value": value,
                "num_tokens": len(candidate.token_ids),
                "finish_reason": candidate.finish_reason,
            }
            for candidate, value in zip(self.candidates, self.values, strict=True)
        ]
        return {"candidates": candidates, "choice": self.choice}


@dataclass
class Cost:
    """What a caption took: tokens sampled by the policy, sentences scored, seconds of wall time.

    ``seconds`` is the batch's time divided by its captions; ``num_prompt_tokens`` counts the image's
    tokens and the prompt's.
    """

    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_value_calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Caption:
    """A finished caption. ``values[i]`` is the score of sentence i when it was chosen."""

    request: Request
    method: str
    text: str
    sentences: tuple[str, ...]
    values: tuple[float, ...]
    finish_reason: FinishReason
    trace: tuple[TraceStep, ...]
    cost: Cost


class Search(Protocol):
    """A way of writing captions; all searches are peers with this one signature."""

    def __call__(
        self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]
    ) -> list[Caption]: ...
