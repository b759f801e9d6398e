"""The searches by name, the scorer each needs, and the options they share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from visvm.config import Config
from visvm.records import Search
from visvm.search.best_of_n import BestOfN
from visvm.search.decode import Decode
from visvm.search.draft import TEMPERATURES
from visvm.search.mcts import MCTS
from visvm.search.oracle import Oracle
from visvm.search.stepwise import Stepwise

Needs = Literal["none", "reward", "value", "reward+future"]


class SearchConfig(Config):
    """Options of all the searches; each takes the ones that concern it."""

    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        TEMPERATURES, min_length=1, description="sampling temperatures of the candidates"
    )
    step_size: int = Field(
        1, ge=1, description="K: candidates a temperature and step; the greedy one comes on top"
    )
    samples_per_temperature: int = Field(
        6, ge=1, description="best_of_n: whole captions a temperature (6 x 5 temperatures = 30)"
    )
    max_sentences: int | None = Field(None, ge=1, description="cut captions after so many sentences")
    temperature: float = Field(0.7, gt=0, description="sample, and the oracle's completions")
    gamma: float = Field(0.9, ge=0, le=1, description="mcts and oracle: discount a sentence")
    simulations: int = Field(7, ge=1, description="mcts: leaves expanded before each sentence")
    exploration: float = Field(1.0, ge=0, description="mcts: weight of little-visited sentences")
    completions: int = Field(2, ge=1, description="oracle: sampled completions a candidate")
    centre: float = Field(
        0.0, description="oracle: taken off every reward; a higher one ends captions sooner"
    )


@dataclass(frozen=True)
class Method:
    """A search as a user names it: its class, the scorer it needs, options that the name fixes."""

    search: type
    needs: Needs
    fixed: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "greedy": Method(Decode, "none", {"temperature": 0.0}),
    "sample": Method(Decode, "none"),
    "best_of_n": Method(BestOfN, "reward"),
    "prm": Method(Stepwise, "reward"),
    "visvm": Method(Stepwise, "value"),
    "reward_plus_future": Method(Stepwise, "reward+future"),
    "mcts": Method(MCTS, "reward"),
    "oracle": Method(Oracle, "reward"),
}


def make_search(method: str, config: SearchConfig) -> Search:
    """The search of that name with the options of ``config`` that are fields of its class.

    Raises:
        ValueError: there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: expected one of {', '.join(METHODS)}")
    kind = METHODS[method]
    given = {"name": method, **kind.fixed}
    options = {f.name: getattr(config, f.name) for f in fields(kind.search) if f.name not in given}
    return kind.search(**given, **options)
