"""The NLTK data behind CHAIR's wordnet variant and AMBER: tokenizer, part-of-speech tagger, WordNet lemmas.

`visvm data nltk DIR` fetches and checks it; set NLTK_DATA=DIR to use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PACKAGES = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")


def tag(text: str) -> list[tuple[str, str]]:
    """Split a text into words with their Penn Treebank tags, as NLTK's default tokenizer and tagger do.

    Raises:
        ValueError: the data is not installed.
    """
    import nltk

    return _using(lambda: nltk.pos_tag(nltk.word_tokenize(text)))


def lemmatize(word: str, part_of_speech: str = "n") -> str:
    """Return WordNet's lemma of a word, as a noun "n", verb "v", adjective "a" or adverb "r".

    Raises:
        ValueError: the data is not installed.
    """
    from nltk.stem import WordNetLemmatizer

    return _using(lambda: WordNetLemmatizer().lemmatize(word, pos=part_of_speech))


def problems() -> dict[str, str]:
    """Try each package on a known example; return what is wrong with those that fail, by name."""
    import nltk

    trials: dict[str, tuple[Callable[[], object], object]] = {
        "punkt_tab": (lambda: nltk.word_tokenize("A dog. A cat."), ["A", "dog", ".", "A", "cat", "."]),
        "averaged_perceptron_tagger_eng": (
            lambda: nltk.pos_tag(["The", "red", "cat"]),
            [("The", "DT"), ("red", "JJ"), ("cat", "NN")],
        ),
        "wordnet": (lambda: [lemmatize("geese"), lemmatize("glasses"), lemmatize("ran", "v")], _LEMMAS),
    }
    found = {name: _problem(trial, expected) for name, (trial, expected) in trials.items()}
    return {name: problem for name, problem in found.items() if problem}


_LEMMAS = ["goose", "glass", "run"]


def _problem(trial: Callable[[], object], expected: object) -> str | None:
    try:
        result = trial()
    except (LookupError, ValueError, OSError, AssertionError) as error:
        return "not installed" if "not found" in str(error) or "needs NLTK" in str(error) else repr(error)
    return None if result == expected else f"expected {expected}, got {result}"


def _using(work: Callable[[], T]) -> T:
    try:
        return work()
    except LookupError:
        raise ValueError(
            "the wordnet variant of CHAIR and AMBER needs NLTK's data (" + ", ".join(PACKAGES) + "):"
            " run `visvm data nltk DIR` and set NLTK_DATA=DIR; CHAIR's --variant original needs none"
        ) from None
