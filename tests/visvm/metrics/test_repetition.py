"""Repetition: sentences said again, and n-grams."""

from __future__ import annotations

import pytest

from visvm.metrics.repetition import ngrams, num_repeated_sentences, words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("", 0),
        ("A dog. A cat.", 0),
        ("A dog. A dog.", 1),
        ("A dog. A cat. a dog! A cat. A DOG.", 3),
        ("A dog. ... ... A cat.", 0),
    ],
)
def test_repeated_sentences_are_counted(caption: str, expected: int) -> None:
    assert num_repeated_sentences(caption) == expected


def test_ngrams_are_in_order() -> None:
    assert ngrams(words("A dog, a DOG and"), 2) == [("a", "dog"), ("dog", "a"), ("a", "dog"), ("dog", "and")]
    assert ngrams(words("A dog"), 3) == []
