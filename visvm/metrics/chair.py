"""CHAIR, the share of named objects that are not in the image (Rohrbach et al. 2018, EMNLP).

Two variants are in use, and their CHAIRs differ by up to 3.4 points: ``original`` (the authors'
program, which makes every token singular by the rules of the pattern library) and ``wordnet`` (most
papers since 2024: part-of-speech tags and WordNet lemmas).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from visvm.metrics import nltk_data
from visvm.metrics.vocabulary import CATEGORY_OF, MERGED, Variant


@dataclass(frozen=True)
class Mention:
    """A word of a caption that names a COCO category."""

    word: str
    category: str


@dataclass(frozen=True)
class Chair:
    """The categories that a caption mentions (in order, repeats included), the false ones, and the truth."""

    objects: tuple[str, ...]
    hallucinated: tuple[str, ...]
    truth: frozenset[str]

    @property
    def recalled(self) -> frozenset[str]:
        """The categories in the image that the caption names."""
        return self.truth.intersection(self.objects)


def chair(caption: str, truth: Iterable[str], *, variant: Variant = "original") -> Chair:
    """Compare the objects that ``caption`` names with ``truth``, the categories that are in the image."""
    true = frozenset(truth)
    objects = tuple(mention.category for mention in mentions(caption, variant=variant))
    return Chair(objects, tuple(name for name in objects if name not in true), true)


def mentions(caption: str, *, variant: Variant = "original") -> list[Mention]:
    """Return the words of ``caption`` that name COCO categories, in order, repeats included.

    Raises:
        ValueError: the NLTK data that the variant needs is not installed.
    """
    words = _merge(_NORMALISE[variant](caption.lower()))
    if "toilet" in words and "seat" in words:
        words = [word for word in words if word != "seat"]
    return [Mention(word, CATEGORY_OF[word]) for word in words if word in CATEGORY_OF]


def _merge(words: list[str]) -> list[str]:
    merged = []
    i = 0
    while i < len(words):
        pair = MERGED.get(" ".join(words[i : i + 2]))
        merged.append(pair or words[i])
        i += 2 if pair else 1
    return merged


def _original(text: str) -> list[str]:
    split_sentences, split_words = _tokenizers()
    return [_singular(word) for sentence in split_sentences(text) for word in split_words(sentence)]


@cache
def _tokenizers() -> tuple[Callable[[str], list[str]], Callable[[str], list[str]]]:
    """Return NLTK's splitters of texts into sentences and of sentences into words.

    Punkt goes without its trained parameters: the English ones add abbreviations, none of which is a word
    of the vocabulary, and evidence that matters only after numbers and initials. No mention depends on them.
    """
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer().tokenize, NLTKWordTokenizer().tokenize


@lru_cache(maxsize=100_000)
def _singular(word: str) -> str:
    """Return the singular by the pattern library's rules; textblob's copy differs on these three endings."""
    from textblob.en.inflect import singularize

    if word.endswith(("collies", "doggies")):
        return word
    return word[:-2] if word.endswith("buses") else singularize(word)


def _wordnet(text: str) -> list[str]:
    part_of_speech = {"J": "a", "V": "v", "R": "r"}
    return [nltk_data.lemmatize(word, part_of_speech.get(tag[0], "n")) for word, tag in nltk_data.tag(text)]


_NORMALISE: dict[Variant, Callable[[str], list[str]]] = {"original": _original, "wordnet": _wordnet}
