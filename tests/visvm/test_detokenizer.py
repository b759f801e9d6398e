"""The next sentence of a caption, found while its tokens are drawn: right, and in linear time."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from visvm.detokenizer import NextSentence


def of_bytes(tokens: Sequence[int]) -> str:
    """A tokenizer of single bytes, as byte fallback is: one that is no character makes its whole run none."""
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


def of_words(words: Sequence[str]) -> str:
    """A tokenizer that drops the space before the first word, as SentencePiece's does."""
    return "".join(words).removeprefix(" ")


def first(text: str, before: str = "") -> tuple[int | None, int]:
    """The length of the sentence, in bytes, and after how many bytes it was known."""
    tokens, sentence = list(text.encode()), NextSentence(of_bytes, list(before.encode()))
    for count in range(1, len(tokens) + 1):
        length = sentence.length(tokens[:count], final=False)
        if length is not None:
            return length, count
    return sentence.length(tokens, final=True), len(tokens)


@pytest.mark.parametrize("before", ["", "A dog sits.", "কুকুর বসে আছে।", "他说……"])
@pytest.mark.parametrize(
    ("sentence", "rest"),
    [(" A cat.", " It"), ("猫。", "狗"), (" कुत्ता बैठा है।", " बि"), ("ခွေးထိုင်နေသည်။", "က"), ("A 🐕!", " Next")],
)
def test_a_sentence_has_all_tokens_of_its_characters(sentence: str, rest: str, before: str) -> None:
    assert first(sentence + rest, before)[0] == len(sentence.encode())


def test_it_is_known_as_soon_as_what_follows_confirms_it() -> None:
    assert first("A cat. It sits.") == (6, 8)
    assert first("A cat") == (None, 5)
    assert first("A cat. ") == (None, 7)


def test_a_first_space_depends_on_the_text_before() -> None:
    words = [" It", " is", " 3.", " The", " end"]
    for before, length in (([], 3), ([" Hello", " there."], 3)):
        sentence = NextSentence(of_words, before)  # type: ignore[arg-type]
        assert sentence.length(words, final=False) == length  # type: ignore[arg-type]


def test_bytes_that_are_no_character_hold_nothing_up() -> None:
    tokens = [*b"A cat.", *[0xFF] * 20, *b" It sits. Then"]
    sentence = NextSentence(lambda ids: bytes(ids).decode(errors="replace"), [])
    assert sentence.length(tokens, final=False) == len(tokens) - len(" Then")


@pytest.mark.parametrize("loop", [b"a. ", b"\xff", "।".encode(), b"x"])
def test_the_tokens_decoded_grow_with_the_length_alone(loop: bytes) -> None:
    def work(count: int) -> int:
        decoded = 0

        def decode(tokens: Sequence[int]) -> str:
            nonlocal decoded
            decoded += len(tokens)
            return of_bytes(tokens)

        sentence, tokens = NextSentence(decode, []), list((loop * count)[:count])
        for number in range(1, count + 1):
            sentence.length(tokens[:number], final=False)
        return decoded

    assert work(1000) <= 2.1 * work(500) + 100
