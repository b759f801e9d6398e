"""Sentences: where one ends, decided once and for good, also while the text is still being written.

Every decision looks at the sentence itself, the white space after it and as much of what follows
as the decision needs, and at nothing else. So splitting is lossless, local (a text is split by
taking its first sentence again and again) and prefix-stable (a closed sentence never reopens).
Boundaries: line ends, CJK full stops, and where the Punkt model of ``nupunkt`` sees one.
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Literal

import nupunkt

Mode = Literal["text", "visvm"]

# The model's own list, learnt from scanned law reports, also holds car, bus, hand, park, ... : words
# that end sentences of captions. Of plain words only these count; "p.m", "U.S" and the like all do.
_ABBREVIATIONS = """
    mr mrs ms dr prof st mt ft sr jr rev hon gen col lt capt sgt maj cmdr gov sen rep pres messrs mme
    mlle jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu thur thurs fri
    vs etc al ca cf no nos fig figs eq vol ch sec pp ed eds est approx appx incl excl esp inc ltd co
    corp dept univ assn bros ave blvd rd hwy bldg apt oz lb lbs kg km cm mm min hr hrs sq avg
"""
_STOP = re.compile("[.!?…。！？｡\n]")
_OPENERS = "\"'([{“‘«*"
_CLOSERS = "\"')]}”’»*」』）】》"
_CJK = "。！？｡"
_GAP = re.compile(
    rf"(?:[.!?…][{re.escape(_CLOSERS)}]*(?=\s)|[{_CJK}][{_CJK}{re.escape(_CLOSERS)}]*|\S(?=[^\S\n]*\n))"
    r"(?P<space>\s*)(?P<next>\S?)"
)
_DOT = re.compile(r"\.(?P<space>\s*)(?P<next>\S?)")
_WORD = re.compile(rf"[^\s{_CJK}]*[{_CJK}{re.escape(_CLOSERS)}]*")
_LIST_MARKER = re.compile(r"\W*(?:(?:\d{1,3}|[A-Za-z]|[ivxlcIVXLC]{1,6})[.)\]:]+\W*)?")
_QUOTE = re.compile(r"(?P<opening>(?<![^\s(\[*])[\"“])|[\"”]")
_QUOTE_REACH = 160  # characters; a quotation mark that nothing closes by then is a stray one


def first_sentence_end(text: str, *, final: bool, mode: Mode = "text") -> int | None:
    """The offset, in characters, at which the first sentence of ``text`` ends.

    With ``final`` the text is complete, so the answer is an offset (at most ``len(text)``). Without
    it more may follow: the offset if no continuation can change it, else None. Line ends after a
    sentence belong to it; spaces belong to the next one. ``mode="visvm"`` is the rule of the
    published VisVM code: any "." ends a sentence.
    """
    if not final:
        text = text.rstrip("\ufffd")  # half a character, still to be completed by the next token
    if not _STOP.search(text):
        return len(text) if final else None
    for gap in (_DOT if mode == "visvm" else _GAP).finditer(text):
        if not gap["next"]:
            break
        ends = True if mode == "visvm" else _is_boundary(text, gap, final=final)
        if ends is None:
            return None
        if ends:
            return _cut(text, gap, mode)
    return len(text) if final else None


def split_sentences(text: str, *, mode: Mode = "text") -> list[str]:
    """The sentences of a complete text; joined they give the text, and none is only white space."""
    sentences = []
    while text:
        end = first_sentence_end(text, final=True, mode=mode)
        sentences.append(text[:end])
        text = text[end:]
    return sentences


def _cut(text: str, gap: re.Match[str], mode: Mode) -> int:
    newline = -1 if mode == "visvm" else text.rfind("\n", *gap.span("space"))
    return gap.start("space") if newline < 0 else newline + 1


def _is_boundary(text: str, gap: re.Match[str], *, final: bool) -> bool | None:
    """Whether a sentence ends at ``gap``; None where that depends on text that may still come."""
    sentence = text[: gap.start("space")]
    if _LIST_MARKER.fullmatch(sentence):
        return False
    if "\n" in gap["space"]:
        return True
    quoted = _in_quotation(text, len(sentence), final=final)
    if quoted is not False:
        return None if quoted is None else False
    word = sentence.split()[-1].rstrip(_CLOSERS)
    if word[-1] in _CJK:
        return True
    end = gap.end("next")
    if not (gap["next"].isalnum() and _is_plain(word)):
        end = _WORD.match(text, gap.start("next")).end()  # type: ignore[union-attr]
        if end == len(text) and not final:
            return None
    return _punkt_splits(text[:end], gap.start("next"))


def _in_quotation(text: str, position: int, *, final: bool) -> bool | None:
    """Whether a quotation opened before ``position`` is closed after it, on its line and in reach."""
    opened = None
    for mark in _QUOTE.finditer(text, 0, position):
        if opened is not None:
            opened = opened if mark[0] == "“" else None
        elif mark["opening"]:
            opened = mark.start()
    if opened is None:
        return False
    reach = opened + _QUOTE_REACH
    rest, newline, _ = text[position:reach].partition("\n")
    if '"' in rest or "”" in rest:
        return True
    return False if final or newline or len(text) >= reach else None


def _is_plain(word: str) -> bool:
    """Whether the first character of what follows decides if this word, with its mark, is a last one."""
    stem = word[:-1].lstrip(_OPENERS).lower()
    return word[-1] in "!?" or (len(stem) > 1 and stem.isalpha() and stem not in _ambiguous_words())


def _punkt_splits(text: str, start: int) -> bool:
    return any(begin == start for begin, _ in _punkt().span_tokenize(text))


@lru_cache(maxsize=1)
def _punkt() -> nupunkt.PunktSentenceTokenizer:
    parameters = copy.copy(nupunkt.load("default").parameters)
    parameters.abbrev_types = {a for a in parameters.abbrev_types if not a.isalpha()}
    parameters.abbrev_types.update(_ABBREVIATIONS.split())
    return nupunkt.PunktSentenceTokenizer(parameters)


@lru_cache(maxsize=1)
def _ambiguous_words() -> set[str]:
    """Abbreviations, and words that are one together with the word that follows."""
    return {*_ABBREVIATIONS.split(), *(first for first, _ in _punkt().parameters.collocations)}
