"""Measure how much a caption repeats itself: repeated true sentences lower the classic CHAIRi."""

from __future__ import annotations

import re
from collections.abc import Sequence

from visvm.sentences import split_sentences

_WORD = re.compile(r"\w+")


def num_repeated_sentences(caption: str) -> int:
    """Return how many sentences repeat the words of an earlier one, whatever their case."""
    keys = [tuple(words(sentence)) for sentence in split_sentences(caption)]
    spoken = [key for key in keys if key]
    return len(spoken) - len(set(spoken))


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded and without punctuation."""
    return _WORD.findall(text.casefold())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a list of words, in order; distinct-n is the share of them that differ."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))
