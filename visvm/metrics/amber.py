"""AMBER's generative task: CHAIR, Cover, Hal and Cog of responses (Wang et al. 2023, arXiv 2311.07397).

The nouns of a response that AMBER's vocabulary knows are compared with the words annotated for its
image: ``truth`` (what is there) and ``hallu`` (what models like to invent), each with its related words.
Words whose spaCy vectors are similar count as the same; this table of pairs is made once by
`visvm data amber-similarity`. Without it only exact words count, which gives other figures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from visvm.metrics import nltk_data
from visvm.metrics.bootstrap import DEFAULT, Resampling
from visvm.metrics.ratio_metrics import ImageCounts, RatioMetrics

METRICS = RatioMetrics(
    counts=(
        *("responses", "hallucinating", "mentions", "hallucinated"),
        *("truth", "covered", "annotated_hallucinations", "marked"),
    ),
    metrics={
        "chair": ("hallucinated", "mentions"),
        "cover": ("covered", "truth"),
        "hal": ("hallucinating", "responses"),
        "cog": ("marked", "annotated_hallucinations"),
    },
)
EPSILON = 0.001  # the authors' program starts its denominators with it


@dataclass(frozen=True)
class AmberWords:
    """AMBER's vocabulary: related words by word, words that are always safe, pairs of similar words.

    ``similar`` is None where the pairs are not known; then only exact words count.
    """

    relations: Mapping[str, Sequence[str]]
    safe: frozenset[str]
    similar: frozenset[frozenset[str]] | None = None

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Every word that counts."""
        return frozenset(self.relations).union(*self.relations.values())

    def expand(self, annotated: Sequence[str]) -> list[tuple[str, int]]:
        """Return (word, index of the annotated word it stands for): the related words, then the words.

        Raises:
            ValueError: a word has no entry in the relations.
        """
        if missing := [word for word in annotated if word not in self.relations]:
            raise ValueError(f"relation.json has no entry for {', '.join(map(repr, missing))}")
        related = [(word, i) for i, one in enumerate(annotated) for word in self.relations[one]]
        return related + [(word, i) for i, word in enumerate(annotated)]

    def are_similar(self, a: str, b: str) -> bool:
        """Return whether two words count as the same."""
        return self.similar is not None and (a == b or frozenset((a, b)) in self.similar)


def nouns(response: str) -> list[str]:
    """Return WordNet's noun lemmas of the words that NLTK tags as nouns, case kept.

    Raises:
        ValueError: NLTK's data is not installed.
    """
    return [nltk_data.lemmatize(word) for word, tag in nltk_data.tag(response) if tag.startswith("NN")]


def all_words(response: str) -> list[str]:
    """Return every word of a response, which needs no data: for closed vocabularies such as the world's."""
    return re.findall(r"[^\W\d_]+", response)


def judge(named: Iterable[str], annotation: Mapping[str, Any], words: AmberWords) -> dict[str, float]:
    """Count what the nouns of one response name, against the annotation of its image."""
    truth, hallu = words.expand(annotation["truth"]), words.expand(annotation["hallu"])
    kept = [noun for noun in named if noun in words.vocabulary]
    covered: set[int | None] = set()
    marked: set[int | None] = set()
    num_hallucinated = 0
    for noun in kept:
        if noun in words.safe:
            continue
        place = _exact(noun, truth)
        if place is None:
            marked |= {_exact(noun, hallu), _similar(noun, hallu, words)}
            place = _similar(noun, truth, words)
        covered.add(place)
        num_hallucinated += place is None
    return {
        "responses": 1,
        "hallucinating": num_hallucinated > 0,
        "mentions": len(kept),
        "hallucinated": num_hallucinated,
        "truth": len(annotation["truth"]),
        "covered": len(covered - {None}),
        "annotated_hallucinations": len(annotation["hallu"]),
        "marked": len(marked - {None}),
    }


def _exact(noun: str, words: Sequence[tuple[str, int]]) -> int | None:
    return next((place for word, place in words if word == noun), None)


def _similar(noun: str, words: Sequence[tuple[str, int]], table: AmberWords) -> int | None:
    return next((place for word, place in words if table.are_similar(noun, word)), None)


def summary(images: ImageCounts, words: AmberWords, resampling: Resampling = DEFAULT) -> dict[str, Any]:
    """Return the metrics as fractions with intervals, and as the authors' program prints them (percent)."""
    totals = METRICS.totals(images)
    percent = {
        name: round(100 * totals[above] / (totals[below] + EPSILON), 1)
        for name, (above, below) in METRICS.metrics.items()
        if name != "hal"
    }
    free = totals["responses"] - totals["hallucinating"]
    percent["hal"] = round(100 - 100 * free / (totals["responses"] + EPSILON), 1)
    return {
        "num_responses": int(totals["responses"]),
        "words_compared": "exact words only" if words.similar is None else "similar words",
        **METRICS.evaluate(images, resampling),
        "printed": {name: percent[name] for name in METRICS.metrics},
    }
