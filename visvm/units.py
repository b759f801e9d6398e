"""The unit of a search, which is what one step writes: a sentence, a paragraph, or a block of tokens."""

from __future__ import annotations

import re

from visvm.sentences import split_sentences

UNITS = "sentence, paragraph, or tokens:N for blocks of N tokens, N from 1 to 4096"
_BLOCK = re.compile(r"tokens:([1-9]\d{0,3})")
_BLANK_LINE = re.compile(r"(?<=\S)[^\S\n]*\n\s*\n(?=\s*\S)")


def check_unit(unit: str) -> str:
    """Return ``unit``; ValueError if it is none."""
    if unit not in ("sentence", "paragraph") and not 1 <= (block_size(unit) or 0) <= 4096:
        raise ValueError(f"expected {UNITS}")
    return unit


def block_size(unit: str) -> int | None:
    """Return the tokens of a block; None if the unit is a sentence or a paragraph."""
    found = _BLOCK.fullmatch(unit)
    return int(found[1]) if found else None


def pieces(text: str, unit: str) -> tuple[str, ...]:
    """Return a candidate as the steps that it is: its sentences, or itself if the unit is another."""
    return tuple(split_sentences(text)) if unit == "sentence" else (text,)


class ParagraphScanner:
    """Finds where the first paragraph of a growing text ends: behind a blank line that text follows."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> None:
        """Append text."""
        self.text += text

    def end(self, *, final: bool = False) -> int | None:
        """Return the offset at which the paragraph ends; None while it may go on."""
        gap = _BLANK_LINE.search(self.text)
        return gap.end() if gap else len(self.text) if final else None
