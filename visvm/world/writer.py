"""The writer of training captions: grounded, then carried away by what such scenes usually hold.

A caption opens with the scene and goes on with grounded sentences (located or related objects). A
summary ("Overall, ...") names only what is there and reads well, but opens a list of further things
that is written from the scene's habit more than from the image. So the next sentence's own score
says little about where it leads, which is what makes look-ahead worth its price.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from visvm.world.scenes import GRID, Layout, weighted

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
class Habits:
    """The writer's rates: how often it sums up, how far a list goes on, how often it invents."""

    related: float = 0.35  # a grounded sentence relates two objects instead of locating one
    summary_early: float = 0.03  # a summary although objects are left to name
    summary_short: float = 0.65  # a summary when all is named and the caption is still short
    summary_late: float = 0.15  # a summary when all is named and the caption is long enough
    end_late: float = 0.6  # the end in that same state
    list_goes_on: float = 0.4  # another list sentence after the second
    list_invents: float = 0.45  # each object of a list: from the scene's habit, not the image
    slip: float = 0.2  # an object of a grounded sentence: the same


HABITS = Habits()
_FEWEST = 3  # sentences before a summary
_ENOUGH = 6  # sentences before the end
_LONGEST = 12


@dataclass(frozen=True)
class SceneSentence:
    """A sentence as written, without spaces around it; ``names`` are the categories it mentions."""

    text: str
    kind: str
    names: tuple[str, ...]


@dataclass
class _Draft:
    layout: Layout
    rng: random.Random
    habits: Habits
    sentences: list[SceneSentence] = field(default_factory=list)
    mentioned: list[str] = field(default_factory=list)

    @property
    def remaining(self) -> tuple[str, ...]:
        return tuple(name for name in self.layout.names if name not in self.mentioned)

    @property
    def seen(self) -> list[str]:
        return [name for name in self.mentioned if name in self.layout.names]

    @property
    def imagined(self) -> tuple[str, ...]:
        return tuple(name for name in self.layout.absent if name not in self.mentioned)

    def write(self, kind: str, text: str, *names: str) -> None:
        self.sentences.append(SceneSentence(text, kind, names))
        self.mentioned += [name for name in names if name not in self.mentioned]


Step = Callable[[_Draft], None]


def caption(layout: Layout, rng: random.Random, habits: Habits = HABITS) -> list[SceneSentence]:
    """One detailed training caption of an image, as its sentences."""
    draft = _Draft(layout, rng, habits)
    _opening(draft)
    while (step := _next(draft)) is not None:
        step(draft)
    return draft.sentences


TRUTHFUL = Habits(summary_early=0.3, list_invents=0.0, slip=0.0)


def truthful(layout: Layout, rng: random.Random) -> list[SceneSentence]:
    """A caption as ``caption`` writes it, that names nothing but what is there."""
    return caption(layout, rng, TRUTHFUL)


_CARELESS = Habits(summary_early=0.15, slip=0.5)


def claim(layout: Layout, rng: random.Random) -> SceneSentence:
    """A sentence about the image that is true or false, about as often."""
    return rng.choice(caption(layout, rng, _CARELESS))


def noisy_text(layout: Layout, rng: random.Random) -> str:
    """The text of ``caption``: what the policy is trained to write."""
    return text(caption(layout, rng))


def true_text(layout: Layout, rng: random.Random) -> str:
    """The text of ``truthful``: what the policy learns to see by."""
    return text(truthful(layout, rng))


def text(sentences: list[SceneSentence]) -> str:
    """The caption's text: sentences joined by single spaces."""
    return " ".join(sentence.text for sentence in sentences)


def reference(layout: Layout) -> str:
    """A short true caption: the scene and at most three of its objects."""
    return f"{a(layout.scene).capitalize()} with {_list([a(name) for name in layout.names[:3]])}."


def a(name: str) -> str:
    """The name with its indefinite article."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _next(draft: _Draft) -> Step | None:
    rng, habits, last = draft.rng, draft.habits, draft.sentences[-1].kind
    if len(draft.sentences) >= _LONGEST:
        return None
    if last == "summary":
        return _listing
    if last == "listing":
        listed = sum(sentence.kind == "listing" for sentence in draft.sentences)
        return _listing if listed < 2 or rng.random() < habits.list_goes_on else None
    return _next_grounded(draft)


def _next_grounded(draft: _Draft) -> Step | None:
    rng, habits = draft.rng, draft.habits
    draw = rng.random()
    grounded = _related if rng.random() < habits.related else _located
    if len(draft.sentences) < _FEWEST:
        return grounded
    if draft.remaining:
        return _summary if draw < habits.summary_early else grounded
    if len(draft.sentences) < _ENOUGH:
        return _summary if draw < habits.summary_short else _related
    if draw < habits.summary_late:
        return _summary
    return None if draw < habits.summary_late + habits.end_late else _related


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
    pool = draft.seen if len(draft.seen) > 1 else list(draft.layout.names)
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
    if imagined and draft.rng.random() < draft.habits.list_invents:
        return weighted(imagined, draft.layout.scene, draft.rng)
    true = [name for name in draft.remaining or draft.layout.names if name not in taken]
    return draft.rng.choice(true or [name for name in draft.layout.names if name not in taken])


def _pick(draft: _Draft) -> tuple[str, int]:
    """The object to write of and its cell: the next in reading order or any, or one that is not there."""
    rng, objects = draft.rng, draft.layout.objects
    free = [cell for cell in range(GRID * GRID) if cell not in dict(objects).values()]
    if draft.imagined and rng.random() < draft.habits.slip:
        return weighted(draft.imagined, draft.layout.scene, rng), rng.choice(free)
    left = [pair for pair in objects if pair[0] in draft.remaining] or list(objects)
    return left[0] if draft.remaining and rng.random() < 0.5 else rng.choice(left)


def _aligned(one: int, other: int) -> bool:
    return one != other and (one // GRID == other // GRID or one % GRID == other % GRID)


def _relation(subject: int, thing: int) -> str:
    """Where ``subject`` stands, seen from ``thing``; both are cells of one row or column."""
    if subject // GRID == thing // GRID:
        return "left of" if subject < thing else "right of"
    return "above" if subject < thing else "below"


def _list(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
