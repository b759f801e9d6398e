"""Units of search: paragraphs, and blocks of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support import tiny
from tests.support.fakes import FakeScorer
from visvm.detokenizer import next_unit
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request
from visvm.search import Decode, Filtered, SearchConfig, Stepwise
from visvm.sentences import split_sentences
from visvm.server_policy.policy import ServerPolicy
from visvm.units import ParagraphScanner, block_size, pieces


@pytest.fixture(scope="module")
def policy(tmp_path_factory: Any) -> SharedPrefixPolicy:
    folder = tiny.save("llava", tmp_path_factory.mktemp("llava"))
    return SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=24)


def requests(unit: str) -> list[Request]:
    return [Request(tiny.image(i), "Describe the image.", seed=i, unit=unit) for i in range(2)]


@pytest.mark.parametrize("unit", ["word", "tokens", "tokens:0", "tokens:5000", "tokens:-1", "tokens:1.5", ""])
def test_other_units_are_refused(unit: str) -> None:
    with pytest.raises(ValueError, match="expected sentence, paragraph, or tokens:N"):
        SearchConfig(unit=unit)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("A cat. A dog.\n- a list\n\nB", 24),
        ("A cat. \n \n\n  B", 11),
        ("A cat.\n\n", None),  # nothing follows yet
        ("A cat.\nA dog.", None),  # a line end is none of a paragraph
        ("\n\nA cat.", None),  # nothing before it
    ],
)
def test_a_paragraph_ends_at_a_blank_line_that_text_follows(text: str, end: int | None) -> None:
    scanner = ParagraphScanner()
    for character in text:
        scanner.feed(character)
    assert scanner.end() == end
    assert scanner.end(final=True) == (len(text) if end is None else end)


def test_a_block_is_not_cut_inside_a_character() -> None:
    def decode(tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    tokens = list("ab\u20acd".encode())  # the third character has three bytes
    length = next_unit(decode, [], "tokens:3").length
    assert [length(tokens[:n], final=False) for n in range(1, 7)] == [None] * 5 + [5]
    assert next_unit(decode, [], "tokens:2").length(tokens[:2], final=True) is None  # the caption's last


def test_blocks_have_their_length_and_greedy_ones_join_to_greedy(policy: SharedPrefixPolicy) -> None:
    whole = Decode()(policy, None, requests("sentence"))
    blocks = Stepwise(temperatures=())(policy, FakeScorer(), requests("tokens:5"))
    assert [one.text for one in blocks] == [one.text for one in whole]
    for caption in blocks:
        lengths = [len(step.candidates[0].token_ids) for step in caption.trace]
        assert min(lengths[:-1]) == 5 and max(lengths) < 14  # more where a character needs them
        assert len(caption.values) == len(caption.sentences) == len(caption.trace)


def test_a_text_without_blank_lines_is_one_paragraph(policy: SharedPrefixPolicy) -> None:
    caption = Stepwise()(policy, FakeScorer(), requests("paragraph"))[0]
    assert "\n\n" not in caption.text
    assert caption.sentences == (caption.text,) and len(caption.values) == len(caption.trace) == 1


def test_a_filter_judges_sentences_whatever_the_unit(policy: SharedPrefixPolicy) -> None:
    caption = Filtered(Stepwise())(policy, FakeScorer(), requests("tokens:3"))[0]
    assert list(caption.sentences) == split_sentences(caption.text)
    assert len(caption.values) == len(caption.sentences) < len(caption.trace)


def test_pieces_of_a_candidate() -> None:
    assert pieces(" A cat. A dog.", "sentence") == (" A cat.", " A dog.")
    assert pieces(" A cat. A", "tokens:4") == (" A cat. A",)
    assert [block_size(unit) for unit in ("sentence", "paragraph", "tokens:16")] == [None, None, 16]


def test_a_policy_behind_a_server_writes_sentences_only() -> None:
    policy = object.__new__(ServerPolicy)
    policy.options = type("Options", (), {"max_images": 4})()
    policy._opened = set()
    with pytest.raises(ValueError, match="behind a server writes sentences only"):
        policy.open([replace(requests("sentence")[0], unit="paragraph")])
