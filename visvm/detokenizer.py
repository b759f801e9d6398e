"""Tokens turned into text while they are drawn, each of them decoded a bounded number of times."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain

from visvm.sentences import SentenceScanner
from visvm.units import ParagraphScanner, block_size

_CONTEXT = 4  # pieces of text before a token that it is decoded with: its first space may depend on them
_CHARACTER = 8  # tokens that one character may take; a longer run is no character at all


Decode = Callable[[Sequence[int]], str]


class NextSentence:
    """The sentence that follows a caption so far, as its tokens are drawn one by one."""

    def __init__(
        self,
        decode: Decode,
        before: Sequence[int],
        scanner: SentenceScanner | ParagraphScanner | None = None,
    ) -> None:
        """``decode`` turns tokens into text; ``before`` are the tokens of the caption so far.

        ``scanner`` finds the end, which is that of a sentence by default.
        """
        self._decode = decode
        self._scanner = scanner or SentenceScanner()
        self._pieces = [tuple(_context(decode, before))]  # each of whole characters
        self._pending: list[int] = []
        self._lengths: list[int] = []  # of the text after each token

    def length(self, tokens: Sequence[int], *, final: bool) -> int | None:
        """Return how many of ``tokens``, those of the last call and more, are the sentence.

        None while it is not closed: what follows it, or end-of-text (``final``), has to confirm it.
        A sentence that end-of-text alone closes is None too: it is the caption's last.
        """
        for token in tokens[len(self._lengths) :]:
            self._read(token)
        if final:
            self._scanner.feed(self._text_of_pending())
        end = self._scanner.end(final=final)
        if end is None or (final and not self._scanner.text[end:].strip()):
            return None
        return min(bisect_left(self._lengths, end) + 1, len(self._lengths))

    def _read(self, token: int) -> None:
        self._pending.append(token)
        text = self._text_of_pending()
        if not text.endswith("\ufffd") or len(self._pending) >= _CHARACTER:
            self._scanner.feed(text)
            self._pieces = [*self._pieces, tuple(self._pending)][-_CONTEXT:]
            self._pending = []
        self._lengths.append(len(self._scanner.text))

    def _text_of_pending(self) -> str:
        if not self._pending:
            return ""
        context = list(chain.from_iterable(self._pieces))
        return self._decode(context + self._pending)[len(self._decode(context)) :]


class NextBlock:
    """The block of ``size`` tokens that follows a caption so far, or a few more if a character needs them."""

    def __init__(self, decode: Decode, before: Sequence[int], size: int) -> None:
        self._decode, self._size = decode, size
        self._before = _context(decode, before)

    def length(self, tokens: Sequence[int], *, final: bool) -> int | None:
        """Return how many of ``tokens`` are the block; None until a further token is there."""
        last = self._size + _CHARACTER
        for count in range(self._size, min(len(tokens), last + 1)):
            if count == last or not self._decode([*self._before, *tokens[:count]]).endswith("\ufffd"):
                return count
        return None


def next_unit(decode: Decode, before: Sequence[int], unit: str) -> NextSentence | NextBlock:
    """Return what tells the length of the unit that follows the tokens ``before``."""
    if (size := block_size(unit)) is not None:
        return NextBlock(decode, before, size)
    return NextSentence(decode, before, ParagraphScanner() if unit == "paragraph" else None)


def _context(decode: Callable[[Sequence[int]], str], tokens: Sequence[int]) -> Sequence[int]:
    """Return the last few tokens, from where a character begins."""
    for count in range(_CONTEXT, _CONTEXT + _CHARACTER):
        if "\ufffd" not in decode(tokens[-count:]):
            return tokens[-count:]
    return tokens
