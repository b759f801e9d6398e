"""Sentence boundaries, decided once and for good, also while the text is still being written.

Every decision looks at the sentence itself, the white space after it and as much of what follows
as the decision needs, and at nothing else. So splitting is lossless, local (a text is split by
taking its first sentence again and again) and prefix-stable (a closed sentence never reopens).
Boundaries: line ends, the marks of Unicode's Sentence_Terminal that need no white space after them
(the full stops of Chinese, Hindi, Arabic, Amharic, ...), and where the Punkt model of ``nupunkt`` sees
one. Every look back or ahead has a bounded reach, so the work is linear in the length of the text.
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import Literal

import nupunkt
import regex

Mode = Literal["text", "visvm"]

# The model's own list, learnt from scanned law reports, also holds car, bus, hand, park, ... : words
# that end sentences of captions. Of plain words only these count; "p.m", "U.S" and the like all do.
_ABBREVIATIONS = """
    mr mrs ms dr prof st mt ft sr jr rev hon gen col lt capt sgt maj cmdr gov sen rep pres messrs mme
    mlle jan feb mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu thur thurs fri
    vs etc al ca cf no nos fig figs eq vol ch sec pp ed eds est approx appx incl excl esp inc ltd co
    corp dept univ assn bros ave blvd rd hwy bldg apt oz lb lbs kg km cm mm min hr hrs sq avg
"""
# All scripts are in the first two planes.
_TERMINALS = "".join(regex.findall(r"\p{Sentence_Terminal}", "".join(map(chr, range(0x20000)))))
_POINTS = "․﹒．"  # full stops that are decimal points as well
# Marks that end a sentence whatever follows; full stop, "!" and "?" need white space, and are Punkt's.
_FINAL = "".join(mark for mark in _TERMINALS if mark not in ".!?" + _POINTS)
TERMINALS = frozenset(_TERMINALS + "…\n")

_OPENERS = "\"'([{“‘«*"
_CLOSERS = "\"')]}”’»*」』）】》«‹›"
_ANY_CLOSER = str.maketrans(dict.fromkeys("«‹›", "»"))  # of the guillemets Punkt knows this one
_RUN = 8  # closing marks after a terminal, at most
_AFTER = rf"[{_FINAL}{_POINTS}…!?{re.escape(_CLOSERS)}]{{0,{_RUN}}}"
_GUILLEMET = r"[^\S\n][»›]"  # French puts a space between the mark and the quotation's end
_GAP = re.compile(
    rf"(?:[.!?…][{re.escape(_CLOSERS)}]{{0,{_RUN}}}(?:{_GUILLEMET}|(?!{_GUILLEMET}(?:\W|\Z)))(?=\s)"
    rf"|(?P<final>(?:[{_FINAL}]|[{_POINTS}](?!\d)|……){_AFTER}(?:{_GUILLEMET}(?=\s))?)"
    r"|\S(?=[^\S\n]*\n))"
    r"(?P<space>\s*)(?P<next>\S?)"
)
_DOT = re.compile(r"\.(?P<space>\s*)(?P<next>\S?)")
_OVERLAP = _RUN + 8  # characters before the last one that may belong to a gap not complete yet
_WORD = re.compile(rf"[^\s{_FINAL}]*[{_FINAL}]?")
_WORD_REACH = 64  # characters of the words around a gap that count
_WORD_CHARACTER = re.compile(r"\w")
_LIST_MARKER = re.compile(r"(?:\d{1,3}|[A-Za-z]|[ivxlcIVXLC]{1,6})[.)\]:]")
_QUOTE = re.compile(r"[\"“”]")
_QUOTE_REACH = 160  # characters; a quotation mark that nothing closes by then is a stray one


class SentenceScanner:
    """Finds where the first sentence of a growing text ends, and reads each character once.

    ``feed`` appends to ``text``; ``end`` answers as ``first_sentence_end`` does. With ``text`` and ``start``
    a complete text is given, and the sentence that begins at ``start`` is looked for.
    """

    def __init__(self, text: str = "", start: int = 0, *, mode: Mode = "text") -> None:
        self.text, self.start, self.mode = text, start, mode
        self._gap = _DOT if mode == "visvm" else _GAP
        self._end: int | None = None
        self._position = start  # the sentence does not end before it
        self._solid, self._scanned = start, -1  # where trailing white space begins, now and at the last scan
        self._quotes, self._opened = start, -1  # quotation marks are read to here; where one is open
        self._words, self._is_marker = start, True  # no words up to here but a list marker
        self._has_marker = False

    def feed(self, text: str) -> None:
        """Append text; nothing of it may be taken back later."""
        self.text += text
        if solid := text.rstrip():
            self._solid = len(self.text) - len(text) + len(solid)

    def end(self, *, final: bool = False) -> int | None:
        """Return the offset at which the sentence ends, or None if what follows has to confirm it."""
        if self._end is None and (final or self._solid != self._scanned):
            self._end = self._scan(final)
        return len(self.text) if final and self._end is None else self._end

    def _scan(self, final: bool) -> int | None:
        while (gap := self._gap.search(self.text, self._position)) and gap["next"]:
            ends = self.mode == "visvm" or self._is_boundary(gap, final)
            if ends:
                return self._cut(gap)
            self._position = gap.start() if ends is None else gap.start("next")
            if ends is None:
                return None
        self._position = max(self._position, self._solid - _OVERLAP)
        self._scanned = self._solid
        return None

    def _cut(self, gap: re.Match[str]) -> int:
        newline = -1 if self.mode == "visvm" else self.text.rfind("\n", *gap.span("space"))
        return gap.start("space") if newline < 0 else newline + 1

    def _is_boundary(self, gap: re.Match[str], final: bool) -> bool | None:
        """Return whether the sentence ends at ``gap``; None where that depends on text still to come."""
        end = gap.start("space")
        if self._is_list_marker(end):
            return False
        if "\n" in gap["space"]:
            return True
        quoted = self._in_quotation(end, final)
        if quoted is not False:
            return None if quoted is None else False
        if gap["final"]:
            return not (gap["final"].startswith("……") and gap["next"].islower())
        return self._ends_by_punkt(gap, final)

    def _is_list_marker(self, end: int) -> bool:
        """Return whether the text up to ``end`` is only the "1." or "b)" of a list, or no word at all."""
        word = self._is_marker and _WORD_CHARACTER.search(self.text, self._words, end)
        if word and not self._has_marker and (marker := _LIST_MARKER.match(self.text, word.start(), end)):
            self._has_marker = True
            word = _WORD_CHARACTER.search(self.text, marker.end(), end)
        self._words = end
        self._is_marker = self._is_marker and not word
        return self._is_marker

    def _in_quotation(self, end: int, final: bool) -> bool | None:
        """Return whether a quotation opened before ``end`` is closed after it, on its line and in reach."""
        self._read_quotes(end)
        if self._opened < 0:
            return False
        reach = self._opened + _QUOTE_REACH
        rest, newline, _ = self.text[end:reach].partition("\n")
        if '"' in rest or "”" in rest:
            return True
        return False if final or newline or len(self.text) >= reach else None

    def _read_quotes(self, end: int) -> None:
        for mark in _QUOTE.finditer(self.text, self._quotes, end):
            place = mark.start()
            if self._opened >= 0:
                self._opened = self._opened if mark[0] == "“" else -1
            elif mark[0] != "”" and self._may_open(place):
                self._opened = place
        self._quotes = max(self._quotes, end)

    def _may_open(self, place: int) -> bool:
        before = self.text[max(self.start, place - 1) : place]
        return not before or before.isspace() or before in "([*"

    def _ends_by_punkt(self, gap: re.Match[str], final: bool) -> bool | None:
        """Ask Punkt about the words on both sides of the gap; None if the next is not complete yet."""
        text, end = self.text, gap.start("space")
        before = text[max(self.start, end - _WORD_REACH) : end]
        word = before.split()[-1].rstrip(_CLOSERS)
        following = gap["next"]
        if not (gap["next"].isalnum() and _is_plain(word)):
            place = gap.start("next")
            following = _WORD.match(text, place, place + _WORD_REACH)[0]  # type: ignore[index]
            if place + len(following) == len(text) and len(following) < _WORD_REACH and not final:
                return None
        return _punkt_splits(before.translate(_ANY_CLOSER) + gap["space"], following)


def first_sentence_end(text: str, *, final: bool, mode: Mode = "text") -> int | None:
    """Return the offset, in characters, at which the first sentence of ``text`` ends.

    With ``final`` the text is complete, so the answer is an offset (at most ``len(text)``). Without
    it more may follow: the offset if no continuation can change it, else None. Line ends after a
    sentence belong to it; spaces belong to the next one. ``mode="visvm"`` is the rule of the
    published VisVM code: any "." ends a sentence.
    """
    scanner = SentenceScanner(mode=mode)
    scanner.feed(text if final else text.rstrip("\ufffd"))  # half a character: the next token completes it
    return scanner.end(final=final)


def split_sentences(text: str, *, mode: Mode = "text") -> list[str]:
    """Return the sentences of a complete text; joined they give it, and none is only white space."""
    sentences, start = [], 0
    while start < len(text):
        end = SentenceScanner(text, start, mode=mode).end(final=True)
        sentences.append(text[start:end])
        start += len(sentences[-1])
    return sentences


def _is_plain(word: str) -> bool:
    """Return whether the first character of what follows decides if this word is a last one."""
    stem = word[:-1].lstrip(_OPENERS).lower()
    return word[-1:] in ("!", "?") or (len(stem) > 1 and stem.isalpha() and stem not in _ambiguous_words())


def _punkt_splits(before: str, following: str) -> bool:
    return any(begin == len(before) for begin, _ in _punkt().span_tokenize(before + following))


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
