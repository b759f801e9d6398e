"""How long captions are: to be read beside CHAIR, which a shorter caption lowers for nothing."""

from __future__ import annotations

from visvm.sentences import split_sentences


def num_sentences(caption: str) -> int:
    """Sentences of a caption, an unfinished last one included."""
    return len(split_sentences(caption)) if caption.strip() else 0


def num_words(caption: str) -> int:
    """Words of a caption: what white space separates."""
    return len(caption.split())
