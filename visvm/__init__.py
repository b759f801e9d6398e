"""visvm: a vision value model that looks ahead for a vision-language model.

    captioner = visvm.load(policy="world", value="world")
    caption = captioner.caption("photo.png", method="visvm")
    print(caption.text)

Names are imported when they are first used, so that ``import visvm`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visvm.registration import register_value_model

if TYPE_CHECKING:
    from visvm.captioner import Captioner, SentenceChoice, load
    from visvm.policy import SharedPrefixPolicy
    from visvm.records import Caption, Policy, Question, Request, Scorer, Search
    from visvm.reward import ClipScorer
    from visvm.search import METHODS, SearchConfig, SentenceSearch
    from visvm.value import FutureScorer, ValueScorer, VisionValueConfig, VisionValueModel

_HOMES = {
    "visvm.captioner": ("Captioner", "SentenceChoice", "load"),
    "visvm.policy": ("SharedPrefixPolicy",),
    "visvm.records": ("Caption", "Policy", "Question", "Request", "Scorer", "Search"),
    "visvm.reward": ("ClipScorer",),
    "visvm.search": ("METHODS", "SearchConfig", "SentenceSearch"),
    "visvm.value": ("FutureScorer", "ValueScorer", "VisionValueConfig", "VisionValueModel"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METHODS",
    "Caption",
    "Captioner",
    "ClipScorer",
    "FutureScorer",
    "Policy",
    "Question",
    "Request",
    "Scorer",
    "Search",
    "SearchConfig",
    "SentenceChoice",
    "SentenceSearch",
    "SharedPrefixPolicy",
    "ValueScorer",
    "VisionValueConfig",
    "VisionValueModel",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'visvm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_value_model()
