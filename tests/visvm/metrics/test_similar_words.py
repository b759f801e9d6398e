"""AMBER's table of similar words."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from visvm.metrics.similar_words import make_table, similar_pairs


def test_pairs_have_a_cosine_above_the_threshold() -> None:
    vectors = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    assert similar_pairs(["a", "b", "c", "d", "e"], vectors) == [("a", "b")]


@pytest.mark.skipif(importlib.util.find_spec("spacy") is not None, reason="spaCy is installed")
def test_it_says_what_to_install() -> None:
    with pytest.raises(ValueError, match="pip install spacy"):
        make_table(["dog"])
