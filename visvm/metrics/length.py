"""Caption length, to be reported with CHAIR, which any shorter caption lowers."""

from __future__ import annotations

from visvm.sentences import split_sentences


def num_sentences(caption: str) -> int:
    """Count the sentences of a caption, an unfinished last one included."""
    return len(split_sentences(caption)) if caption.strip() else 0


def num_words(caption: str) -> int:
    """Count the words of a caption, as separated by white space."""
    return len(caption.split())
