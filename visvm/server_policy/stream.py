"""One candidate from a server: a streamed answer, cut where a sentence ends."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from visvm.records import Candidate, FinishReason
from visvm.sentences import SentenceScanner

_UNKNOWN = -1  # the server tells tokens as text: the id of each in a candidate
_NEEDS_SPACE = ".!?\"')]"  # a sentence that ends so is followed by white space, which some servers drop


@dataclass
class GrowingCandidate:
    """The text of a candidate as it arrives, with the texts and log-probabilities of its tokens."""

    temperature: float
    after: str  # the caption so far
    scanner: SentenceScanner | None  # None: the whole rest is wanted, not a sentence
    text: str = ""
    tokens: list[str] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def feed(self, text: str, log_probs: Any) -> None:
        """Append what a chunk brings."""
        if text and not self.text and self.after[-1:] in tuple(_NEEDS_SPACE) and not text[0].isspace():
            text = " " + text
        self.text += text
        if self.scanner is not None:
            self.scanner.feed(text)
        if log_probs is not None:
            self.tokens += [one.token for one in log_probs.content or ()]
            self.log_probs += [one.logprob for one in log_probs.content or ()]
        elif text:
            self.tokens.append(text)

    @property
    def end(self) -> int | None:
        """Where the sentence ends, once the text after it confirms that."""
        return self.scanner.end() if self.scanner is not None else None

    def closed(self, reason: str | None) -> Candidate:
        """Return the candidate; ``reason`` is the server's, None if the stream was cut at ``end``."""
        end = len(self.text) if self.scanner is None else self.scanner.end(final=True) or 0
        finish: FinishReason = "length" if reason == "length" else "stop"
        if end < len(self.text):
            finish = "sentence"
        count = self._num_tokens(end)
        total = sum(self.log_probs[:count]) if self.log_probs else math.nan
        return Candidate(self.text[:end], (_UNKNOWN,) * count, finish, self.temperature, total)

    def _num_tokens(self, end: int) -> int:
        """Return how many of the tokens make the text up to ``end``."""
        length = 0
        for count, token in enumerate(self.tokens):
            if length >= end:
                return count
            length += len(token)
        return len(self.tokens)


async def read(chunks: AsyncIterator[Any], growing: GrowingCandidate) -> Candidate:
    """Read a stream until the candidate is complete.

    Raises:
        ConnectionError: the stream ended without a reason.
    """
    async for chunk in chunks:
        for choice in chunk.choices:
            growing.feed(choice.delta.content or "", choice.logprobs)
            if growing.end is not None or choice.finish_reason:
                return growing.closed(choice.finish_reason)
    raise ConnectionError("the server ended the stream without a finish_reason")
