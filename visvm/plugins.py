"""Objects of the user's own by "MODULE:NAME": a scorer or a search that is imported where it runs."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from visvm.records import Scorer


def load_object(spec: str) -> Any:
    """Import MODULE and return its NAME. The current directory is searched too, last.

    Raises:
        ValueError: ``spec`` does not read MODULE:NAME, or there is no such module or name.
    """
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
        raise ValueError(f"{spec!r}: expected MODULE:NAME, such as my_scorer:MyScorer")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{spec}: cannot be imported ({error}); MODULE must be installed, on PYTHONPATH or in the current"
            " directory, on every machine that works"
        ) from None
    return found


def load_scorer(spec: str) -> Scorer:
    """Return the scorer that "MODULE:NAME" names: an object with ``score``, or what NAME() returns.

    Raises:
        ValueError: it cannot be imported, or is not a ``visvm.Scorer``.
    """
    found = load_object(spec)
    return check_scorer(found() if _is_factory(found) else found, spec)


def check_scorer_name(spec: str) -> str:
    """Return ``spec`` if "MODULE:NAME" can be imported and may be a scorer; nothing is made of it.

    Raises:
        ValueError: it cannot be imported, or is neither a scorer nor something that returns one.
    """
    found = load_object(spec)
    if isinstance(found, type):
        if not callable(getattr(found, "score", None)):
            raise ValueError(f"{spec}: class {found.__name__} has no method score(questions)")
    elif not _is_factory(found):
        check_scorer(found, spec)
    return spec


def check_scorer(scorer: Any, name: str) -> Scorer:
    """Return ``scorer``; ValueError if it has no method ``score(questions)``."""
    if isinstance(scorer, type) or not isinstance(scorer, Scorer) or not callable(scorer.score):
        raise ValueError(
            f"{name}: {type(scorer).__name__} is not a scorer; expected an object with"
            " score(questions) -> list[list[float]], one float for each sentence of each question"
        )
    return scorer


def _is_factory(found: Any) -> bool:
    return isinstance(found, type) or (callable(found) and not isinstance(found, Scorer))
