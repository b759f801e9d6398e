"""AMBER's table of similar words, from word vectors: made once, by whoever has the vectors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODEL = "en_core_web_lg"
THRESHOLD = 0.8


def make_table(
    vocabulary: Iterable[str], *, model: str = MODEL, allow_pruned: bool = False
) -> dict[str, Any]:
    """Return the pairs of words that a spaCy model finds similar, with what made them.

    Raises:
        ValueError: spaCy or the model is not installed, has no vectors, or has pruned ones: many words share
            a vector, so unlike words come out similar (``allow_pruned`` takes them all the same).
    """
    nlp = _load(model)
    vectors = nlp.vocab.vectors
    num_vectors, num_keys = vectors.shape[0], vectors.n_keys
    if not num_vectors:
        raise ValueError(f"{model} has no word vectors: AMBER's figures are by {MODEL}")
    if num_keys > 5 * num_vectors and not allow_pruned:
        raise ValueError(
            f"{model} has pruned vectors ({num_vectors} for {num_keys} words): unlike words come out similar."
            f" Install {MODEL}, or give --allow-pruned for figures that compare with nobody else's"
        )
    words = sorted(vocabulary)
    return {
        "model": f"{model} {nlp.meta['version']}",
        "threshold": THRESHOLD,
        "num_vectors": num_vectors,
        "pairs": similar_pairs(words, np.stack([nlp(word).vector for word in words])),
    }


def similar_pairs(words: Sequence[str], vectors: NDArray[Any]) -> list[tuple[str, str]]:
    """Return the pairs of words whose vectors [words, size] have a cosine above THRESHOLD."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    cosines = unit @ unit.T
    return [
        (words[i], words[j])
        for i, j in itertools.combinations(range(len(words)), 2)
        if cosines[i, j] > THRESHOLD
    ]


def _load(model: str) -> Any:
    try:
        import spacy

        return spacy.load(model)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"cannot load {model} ({error}): run `pip install spacy` and `python -m spacy download {model}`"
        ) from None
