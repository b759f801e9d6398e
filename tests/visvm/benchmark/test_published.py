"""Defects of the published VisVM code that have no other test of their own; the numbers are papers.md's.

1 (rewards of other samples) is in test_td, 2 and 3 (the end of a caption) in test_search and test_td,
7 (images that vanish) in test_pipeline.
"""

from __future__ import annotations

from tests.support import tiny
from visvm.sentences import split_sentences
from visvm.training.td import Response
from visvm.training.text_packing import Packer, TextPack
from visvm.value import StateReader, VisionValueConfig

READER = StateReader(VisionValueConfig(), tiny.tokenizer())


def pack(*sentences: str) -> TextPack:
    rewards = tuple(0.1 * i for i in range(len(sentences)))
    return Packer(READER).pack([Response(sentences, rewards, stopped=False)])


def test_4_numbers_and_list_marks_are_no_sentences() -> None:
    text = "A 3.5 m boat, No. 12, lies there.\n1. A red car."
    assert split_sentences(text) == ["A 3.5 m boat, No. 12, lies there.\n", "1. A red car."]


def test_4_a_repeated_sentence_keeps_its_place_and_its_own_reward() -> None:
    pairs = pack("A dog.", " A cat.", " A dog.", " A cup.").pairs
    assert [(state, following) for state, following, _, _ in pairs] == [(0, 1), (1, 0), (0, 2)]
    assert [round(reward, 3) for _, _, reward, _ in pairs] == [0.0, 0.1, 0.2]


def test_5_training_reads_the_tokens_that_search_scores() -> None:
    sentences = ("A dog sits there.", "The cat sleeps!")
    scored = [READER.sentence_ids(sentence, ended=False) for sentence in sentences]
    assert pack(*sentences).tree.lay_out().tokens == [*scored[0], *scored[1]]
    assert READER.tokenizer.decode(scored[0]) == "A dog sits there."


def test_6_a_long_sentence_is_never_cut() -> None:
    sentence = "A dog " * 5000 + "sleeps."
    assert READER.tokenizer.decode(pack(sentence).tree.lay_out().tokens) == sentence
