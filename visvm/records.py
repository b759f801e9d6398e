"""The data that stages exchange, as dataclasses; ``schemas`` declares the columns of their files.

The three seams of the system are the Protocols here: ``Policy``, ``Scorer`` and ``Search``.
Everything else is concrete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

FinishReason = Literal["sentence", "stop", "length"]


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: upright and RGB; the hash of its file's bytes identifies it in caches."""

    id: str
    uri: str
    content_hash: str
    pil: Image.Image = field(repr=False, compare=False)


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Conversation:
    """A prompt of several turns, by the user first and last; the image is in turn ``image_turn``."""

    turns: tuple[Turn, ...]
    image_turn: int = 0

    def __str__(self) -> str:
        """Return the text of the last turn, for a scorer that reads one prompt."""
        return self.turns[-1].text

    def head(self) -> Conversation:
        """Return the turns up to the image's, that one without its text: what comes before the image."""
        return Conversation((*self.turns[: self.image_turn], Turn("user", "")), self.image_turn)


Prompt = str | Conversation


@dataclass(frozen=True)
class Request:
    """One caption to write; its text depends only on (seed, content of the image, prompt, start).

    ``start`` is text that the answer begins with; the caption is what follows it. ``max_tokens`` limits the
    caption's length, if it is less than the limit of the policy. The caption ends before the first of the
    texts ``stop``. ``unit`` is what one step writes: see ``visvm.units``.
    """

    image: DecodedImage
    prompt: Prompt
    seed: int = 0
    max_tokens: int | None = None
    start: str = ""
    stop: tuple[str, ...] = ()
    unit: str = "sentence"


@dataclass(frozen=True)
class Candidate:
    """A proposed continuation of a caption: one sentence, or the whole rest.

    ``text`` is the exact continuation (leading white space included), so texts join losslessly.
    ``finish_reason`` is "stop" if the policy ended the caption right after it, "length" if it ran out
    of tokens, else "sentence". ``log_prob`` is the sum over its tokens, in nats, under the policy at
    temperature 1.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    temperature: float
    log_prob: float

    @property
    def ended(self) -> bool:
        """Whether choosing this candidate ends the caption."""
        return self.finish_reason != "sentence"

    @property
    def is_last(self) -> bool:
        """Whether the policy ended the caption here: nothing would follow, as it would behind a cut."""
        return self.finish_reason == "stop"


class Branch(Protocol):
    """A caption in progress. Immutable: ``Policy.commit`` returns a new one, and the old stays usable."""

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
    """Generates candidates for many captions concurrently; each image is encoded once."""

    @property
    def num_free(self) -> int:
        """How many more images may be opened now."""
        ...

    def open(self, requests: Sequence[Request]) -> list[Branch]:
        """Encode images and prompts; return an empty branch for each of the first requests that fit."""
        ...

    def submit(
        self, branches: Sequence[Branch], temperatures: Sequence[float], *, whole: bool = False
    ) -> int:
        """Submit one candidate per temperature (0 = greedy) of each branch: a sentence, or all the rest.

        Candidate j of a branch is sampled with a seed derived from (seed, content hash, prompt, text so
        far, j), so it does not depend on what else is being generated. Return the number under which
        ``step`` reports them.
        """
        ...

    def step(self) -> Mapping[int, list[list[Candidate]] | Exception]:
        """Decode one token of each row; return the complete submissions, [branch][candidate], by number.

        A submission that failed, and no other, has its error there.
        """
        ...

    def commit(self, branches: Sequence[Branch], chosen: Sequence[Candidate]) -> list[Branch]:
        """Append one candidate to each branch; the given branches stay usable."""
        ...

    def cancel(self, number: int) -> None:
        """Drop the submission ``number``, which ``step`` has not reported yet."""
        ...

    def clear(self) -> None:
        """Drop all submissions."""
        ...


@dataclass(frozen=True)
class Question:
    """Candidate next sentences of one caption, to be scored.

    ``prompt`` is text, or a ``Conversation`` of a request with several turns (``str`` gives its last).
    ``prefix`` holds the sentences so far; ``ended[j]`` tells whether the caption ends with sentence j.
    ``asks_reward``: the reward of each sentence alone is asked for, whatever the search scores by.
    """

    image: DecodedImage
    prompt: Prompt
    prefix: tuple[str, ...]
    sentences: tuple[str, ...]
    ended: tuple[bool, ...]
    asks_reward: bool = False


@runtime_checkable
class Scorer(Protocol):
    """Scores candidate sentences of captions; higher is better."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Return one float per sentence of each question."""
        ...


@runtime_checkable
class CandidateScorer(Protocol):
    """Scores candidates by what the policy computed when it wrote them: no question, no cost."""

    @property
    def is_free(self) -> bool:
        """Whether it does."""
        ...

    def score_candidates(self, branch: Branch, candidates: Sequence[Candidate]) -> list[float]:
        """Return one float per candidate that was just proposed for ``branch``."""
        ...


@dataclass(frozen=True)
class TraceStep:
    """One step of a search: the candidates, their values, and the index of the chosen one."""

    candidates: tuple[Candidate, ...]
    values: tuple[float, ...]
    choice: int

    def row(self) -> dict[str, Any]:
        """Convert to an element of the column ``trace``."""
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
    """The cost of a caption: tokens sampled by the policy, sentences scored, seconds of wall time.

    ``seconds`` is the time of the batch divided by its captions; ``num_prompt_tokens`` counts the tokens
    of image and prompt.
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
    """A method of writing captions."""

    def __call__(
        self, policy: Policy, scorer: Scorer | None, requests: Sequence[Request]
    ) -> list[Caption]: ...
