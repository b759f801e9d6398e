"""The writer of training captions: grounded at first, then drifting to what such scenes usually contain.

A caption opens with the scene and continues with grounded sentences (located or related objects). A
summary ("Overall, ...") names only objects that are present, but is followed by a list of further objects
that come from the prior of the scene more than from the image. So the score of a summary alone says little
about what follows it, which is what makes look-ahead worth its cost.

The texts are data: their wording, "The picture shows" included, determines the shipped weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from visvm.world.scenes import GRID, SECOND, Layout, weighted

PLACES = (
    "at the top left",
    "at the top",
    "at the top right",
    "on the left",
    "in the middle",
    "on the right",
    "at the bottom left",
    "at the bottom",
    "at the bottom right",
)
PLACE_WORDS = ("top", "middle", "bottom", "left", "right")


@dataclass(frozen=True)
class WriterRates:
    """The probabilities by which the writer summarises, continues lists, and names absent objects."""

    related: float = 0.35  # a grounded sentence relates two objects instead of locating one
    summary_early: float = 0.03  # a summary while there are objects left to name
    summary_short: float = 0.65  # a summary when all is named and the caption is still short
    summary_late: float = 0.15  # a summary when all is named and the caption is long enough
    end_late: float = 0.6  # the end in that same situation
    list_goes_on: float = 0.4  # another list sentence after the second
    list_invents: float = 0.45  # each object of a list: absent, but typical of the scene
    slip: float = 0.2  # an object of a grounded sentence: likewise


DEFAULT_RATES = WriterRates()
SECOND_RATES = WriterRates(
    related=0.45, summary_short=0.6, list_invents=0.5, slip=0.15
)  # of the second world
_FEWEST = 3  # sentences before a summary
_ENOUGH = 6  # sentences before the end
_LONGEST = 12


@dataclass(frozen=True)
class SceneSentence:
    """A sentence without surrounding spaces, its kind, and the categories it mentions."""

    text: str
    kind: str
    names: tuple[str, ...]


@dataclass
class _Draft:
    layout: Layout
    rng: random.Random
    rates: WriterRates
    sentences: list[SceneSentence] = field(default_factory=list)
    mentioned: list[str] = field(default_factory=list)

    @property
    def remaining(self) -> tuple[str, ...]:
        return tuple(name for name in self.layout.names if name not in self.mentioned)

    @property
    def grounded(self) -> list[str]:
        return [name for name in self.mentioned if name in self.layout.names]

    @property
    def imagined(self) -> tuple[str, ...]:
        return tuple(name for name in self.layout.absent if name not in self.mentioned)

    def write(self, kind: str, text: str, *names: str) -> None:
        self.sentences.append(SceneSentence(text, kind, names))
        self.mentioned += [name for name in names if name not in self.mentioned]


Step = Callable[[_Draft], None]


def caption(layout: Layout, rng: random.Random, rates: WriterRates | None = None) -> list[SceneSentence]:
    """Write a detailed training caption of an image, by its world's rates; return its sentences."""
    own = SECOND_RATES if layout.split in SECOND else DEFAULT_RATES
    draft = _Draft(layout, rng, rates or own)
    _opening(draft)
    while (step := _next(draft)) is not None:
        step(draft)
    return draft.sentences


TRUTHFUL = WriterRates(summary_early=0.3, list_invents=0.0, slip=0.0)


def truthful(layout: Layout, rng: random.Random) -> list[SceneSentence]:
    """Write a caption that names only objects that are present."""
    return caption(layout, rng, TRUTHFUL)


_CARELESS = WriterRates(summary_early=0.15, slip=0.5)


def claim(layout: Layout, rng: random.Random) -> SceneSentence:
    """Write a sentence about the image that is true or false with similar probability."""
    return rng.choice(caption(layout, rng, _CARELESS))


def noisy_text(layout: Layout, rng: random.Random) -> str:
    """Write the text of ``caption``, which the policy is trained on."""
    return text(caption(layout, rng))


def true_text(layout: Layout, rng: random.Random) -> str:
    """Write the text of ``truthful``, on which the policy is trained first to ground it in the image."""
    return text(truthful(layout, rng))


def text(sentences: list[SceneSentence]) -> str:
    """Join sentences by single spaces."""
    return " ".join(sentence.text for sentence in sentences)


def reference(layout: Layout) -> str:
    """Return a short true caption: the scene and up to three of its objects."""
    return f"{a(layout.scene).capitalize()} with {_list([a(name) for name in layout.names[:3]])}."


def a(name: str) -> str:
    """Return the name with its indefinite article."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _next(draft: _Draft) -> Step | None:
    rng, rates, last = draft.rng, draft.rates, draft.sentences[-1].kind
    if len(draft.sentences) >= _LONGEST:
        return None
    if last == "summary":
        return _listing
    if last == "listing":
        listed = sum(sentence.kind == "listing" for sentence in draft.sentences)
        return _listing if listed < 2 or rng.random() < rates.list_goes_on else None
    return _next_grounded(draft)


def _next_grounded(draft: _Draft) -> Step | None:
    rng, rates = draft.rng, draft.rates
    draw = rng.random()
    grounded = _related if rng.random() < rates.related else _located
    if len(draft.sentences) < _FEWEST:
        return grounded
    if draft.remaining:
        return _summary if draw < rates.summary_early else grounded
    if len(draft.sentences) < _ENOUGH:
        return _summary if draw < rates.summary_short else _related
    if draw < rates.summary_late:
        return _summary
    return None if draw < rates.summary_late + rates.end_late else _related


def _opening(draft: _Draft) -> None:
    scene, count = a(draft.layout.scene), draft.rng.choice((0, 1, 1, 1, 2))
    names = [draft.rng.choice(draft.layout.names[:4])] if count else []
    if count == 2:
        names.append(draft.rng.choice([name for name in draft.layout.names if name not in names]))
    tail = f" with {_list([a(name) for name in names])}" if names else ""
    start = draft.rng.choice(("The picture shows", "This is"))
    draft.write("opening", f"{start} {scene}{tail}.", *names)


def _located(draft: _Draft) -> None:
    name, cell = _pick(draft)
    place = PLACES[cell]
    form = f"{a(name)} is {place}." if draft.rng.random() < 0.7 else f"{place} is {a(name)}."
    draft.write("located", form[0].upper() + form[1:], name)


def _related(draft: _Draft) -> None:
    name, cell = _pick(draft)
    others = [(other, at) for other, at in draft.layout.objects if other != name and _aligned(cell, at)]
    known = [pair for pair in others if pair[0] in draft.mentioned] or others
    if not known:
        return _located(draft)
    other, at = draft.rng.choice(known)
    draft.write("related", f"The {other} is {_relation(at, cell)} {a(name)}.", other, name)


def _summary(draft: _Draft) -> None:
    pool = draft.grounded if len(draft.grounded) > 1 else list(draft.layout.names)
    names = draft.rng.sample(pool, min(len(pool), draft.rng.choice((2, 3, 3))))
    listed = _list([f"the {name}" for name in names])
    scene = draft.layout.scene
    forms = (
        f"Overall, {listed} make a typical {scene}.",
        f"Overall, {listed} give the {scene} a lively look.",
    )
    draft.write("summary", draft.rng.choice(forms), *names)


def _listing(draft: _Draft) -> None:
    names = [_listed(draft, [])]
    if draft.rng.random() < 0.6:
        names.append(_listed(draft, names))
    listed = _list([a(name) for name in names])
    forms = (f"There is also {listed} nearby.", f"There may also be {listed} nearby.")
    draft.write("listing", draft.rng.choice(forms), *names)


def _listed(draft: _Draft, taken: Sequence[str]) -> str:
    imagined = tuple(name for name in draft.imagined if name not in taken)
    if imagined and draft.rng.random() < draft.rates.list_invents:
        return weighted(imagined, draft.layout.scene, draft.rng)
    true = [name for name in draft.remaining or draft.layout.names if name not in taken]
    return draft.rng.choice(true or [name for name in draft.layout.names if name not in taken])


def _pick(draft: _Draft) -> tuple[str, int]:
    """Draw an object and its cell: the next in reading order, any, or (at the slip rate) an absent one."""
    rng, objects = draft.rng, draft.layout.objects
    free = [cell for cell in range(GRID * GRID) if cell not in dict(objects).values()]
    if draft.imagined and rng.random() < draft.rates.slip:
        return weighted(draft.imagined, draft.layout.scene, rng), rng.choice(free)
    left = [pair for pair in objects if pair[0] in draft.remaining] or list(objects)
    return left[0] if draft.remaining and rng.random() < 0.5 else rng.choice(left)


def _aligned(one: int, other: int) -> bool:
    return one != other and (one // GRID == other // GRID or one % GRID == other % GRID)


def _relation(subject: int, thing: int) -> str:
    """Return where cell ``subject`` is relative to cell ``thing``; they share a row or column."""
    if subject // GRID == thing // GRID:
        return "left of" if subject < thing else "right of"
    return "above" if subject < thing else "below"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
