"""The searches by name, the scorer each needs, and the options they share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from visvm.config import Config
from visvm.plugins import load_object
from visvm.search.beam import Beam, ParticleFilter
from visvm.search.best_of_n import BestOfN
from visvm.search.decode import Decode
from visvm.search.draft import TEMPERATURES, Needs, SentenceSearch
from visvm.search.filtered import Filtered, filtered_greedy
from visvm.search.mcts import MCTS
from visvm.search.oracle import Oracle
from visvm.search.stepwise import Stepwise
from visvm.units import UNITS, check_unit

NEEDS: tuple[Needs, ...] = ("none", "reward", "value", "reward+future")


class SearchConfig(Config):
    """Options of all the searches; each takes the ones that concern it."""

    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        TEMPERATURES, min_length=1, description="sampling temperatures of the candidates"
    )
    step_size: int = Field(
        1, ge=1, description="K: candidates per temperature and step; the greedy one comes on top"
    )
    unit: str = Field("sentence", description=f"what one step writes: {UNITS}")
    beam_width: int = Field(1, ge=1, le=64, description="prm, visvm: captions in progress at a time")
    particles: int = Field(12, ge=1, le=256, description="particles: captions in progress at a time")
    samples_per_temperature: int = Field(
        6, ge=1, description="best_of_n: whole captions per temperature (6 x 5 temperatures = 30)"
    )
    min_reward: float | None = Field(
        None,
        description="prm, visvm: choose only among candidates of at least this reward; ask for more where"
        " there are none, and end where there still are none",
    )
    min_spread: float | None = Field(
        None,
        ge=0,
        description="prm, visvm: propose three candidates first, all only if their scores differ by so much",
    )
    choose_at: int | None = Field(
        None,
        ge=1,
        description="prm, visvm: choose only this sentence of a caption (from 1) by score; others are greedy",
    )
    drop_below: float | None = Field(
        None, description="drop sentences whose reward is below this from the finished caption"
    )
    max_sentences: int | None = Field(
        None, ge=1, description="cut captions after so many sentences, or units"
    )
    temperature: float = Field(0.7, gt=0, description="sample, particles, and the oracle's completions")
    gamma: float = Field(0.9, ge=0, le=1, description="mcts and oracle: discount per sentence")
    simulations: int = Field(7, ge=1, description="mcts: leaves expanded before each sentence")
    exploration: float = Field(1.0, ge=0, description="mcts: weight of little-visited sentences")
    completions: int = Field(2, ge=1, description="oracle: sampled completions per candidate")
    centre: float = Field(
        0.0, description="oracle: taken off every reward; a higher one ends captions sooner"
    )

    @field_validator("unit")
    @classmethod
    def _is_unit(cls, value: str) -> str:
        return check_unit(value)

    @model_validator(mode="after")
    def _one_caption_at_a_time(self) -> Self:
        if self.beam_width > 1 and (self.min_reward is not None or self.min_spread is not None):
            raise ValueError("min_reward and min_spread are options of beam_width 1")
        return self


@dataclass(frozen=True)
class Method:
    """A search as a user names it: what makes it, the scorer it needs, options that the name fixes."""

    search: Callable[..., SentenceSearch]
    needs: Needs
    fixed: dict[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "greedy": Method(Decode, "none", {"temperature": 0.0}),
    "sample": Method(Decode, "none"),
    "filter": Method(filtered_greedy, "reward"),
    "best_of_n": Method(BestOfN, "reward"),
    "prm": Method(Stepwise, "reward"),
    "visvm": Method(Stepwise, "value"),
    "reward_plus_future": Method(Stepwise, "reward+future"),
    "particles": Method(ParticleFilter, "value"),
    "best_of_n_value": Method(BestOfN, "value"),
    "mcts": Method(MCTS, "reward"),
    "mcts_value": Method(MCTS, "value"),
    "oracle": Method(Oracle, "reward"),
}


def find_method(name: str) -> Method:
    """Return the method of that name; "MODULE:NAME" is a search of the user's own.

    NAME is a subclass of ``SentenceSearch``, or a function that returns an instance of one. It is called
    with those fields of ``SearchConfig`` that are among its parameters. Its attribute ``needs`` says which
    scorer it gets (default: "none").

    Raises:
        ValueError: no such method, or MODULE:NAME cannot be imported or is something else.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ValueError(f"method = {name!r}: expected one of {', '.join(METHODS)}, or MODULE:NAME")
    search = load_object(name)
    if not callable(search) or isinstance(search, SentenceSearch):
        raise ValueError(f"{name}: expected a subclass of visvm.search.SentenceSearch, or a function")
    needs = getattr(search, "needs", "none")
    if needs not in NEEDS:
        raise ValueError(f"{name}: needs = {needs!r}; expected one of {', '.join(NEEDS)}")
    return Method(search, needs)


def make_search(method: str, config: SearchConfig) -> SentenceSearch:
    """Return the search of that name with the options of ``config`` that are among its parameters.

    Raises:
        ValueError: as ``find_method``, or the search cannot be made with these options.
    """
    kind = find_method(method)
    if config.beam_width > 1 and kind.search is Stepwise:
        kind = replace(kind, search=Beam)
    fixed = {"name": method, **kind.fixed} if method in METHODS else kind.fixed
    names = [name for name in inspect.signature(kind.search).parameters if name not in fixed]
    options = {name: getattr(config, name) for name in names if name in SearchConfig.model_fields}
    try:
        search = kind.search(**fixed, **options)
    except TypeError as error:
        raise ValueError(f"{method}: cannot be made with the options of a search: {error}") from None
    if not isinstance(search, SentenceSearch):
        raise ValueError(f"{method}: {type(search).__name__} is not a visvm.search.SentenceSearch")
    if config.drop_below is not None and not isinstance(search, Filtered):
        return Filtered(search, config.drop_below)
    return search
