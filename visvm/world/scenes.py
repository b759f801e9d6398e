"""Scenes and layouts: which objects each image shows, and where."""

from __future__ import annotations

import random
from dataclasses import dataclass

SPLITS = {"train": 1, "validation": 2, "test": 3, "train2": 4, "validation2": 5, "test2": 6}
SECOND = ("train2", "validation2", "test2")  # the splits of the second world: docs/world.md

# Scene -> its typical objects, the most typical first; all names are COCO categories.
SCENES: dict[str, tuple[str, ...]] = {
    "kitchen": ("bowl", "cup", "bottle", "knife", "spoon", "apple", "banana", "carrot", "clock"),
    "picnic": ("sandwich", "apple", "cake", "bottle", "pizza", "donut", "banana", "dog", "umbrella"),
    "living room": ("couch", "tv", "potted plant", "cat", "book", "clock", "vase", "chair", "cup"),
    "office": (
        "laptop",
        "keyboard",
        "mouse",
        "chair",
        "cell phone",
        "book",
        "cup",
        "backpack",
        "potted plant",
    ),
    "street": (
        "car",
        "person",
        "traffic light",
        "bicycle",
        "truck",
        "motorcycle",
        "dog",
        "umbrella",
        "backpack",
    ),
    "farm": ("cow", "horse", "sheep", "dog", "bird", "truck", "person", "cat", "carrot"),
    "safari park": ("elephant", "zebra", "giraffe", "bear", "bird", "person", "truck", "boat", "backpack"),
    "beach": ("umbrella", "person", "boat", "kite", "sports ball", "dog", "bird", "bottle", "chair"),
}
CATEGORIES = tuple(sorted({name for objects in SCENES.values() for name in objects}))
_COUNTS = (4, 5, 5, 6, 6, 7)  # how many objects an image shows; each is as likely
_SECOND_COUNTS = (4, 5, 6, 6, 7, 8)
_TYPICAL, _SECOND_TYPICAL = 0.9, 0.85  # the share of objects drawn from those of the scene
GRID = 3
CELLS = GRID * GRID


@dataclass(frozen=True)
class Layout:
    """What an image shows: its scene, and its objects as (category, cell), cells row-major in 0..8."""

    split: str
    index: int
    scene: str
    objects: tuple[tuple[str, int], ...]

    @property
    def image_id(self) -> int:
        """An integer id as in COCO, unique over all splits."""
        return SPLITS[self.split] * 1_000_000 + self.index

    @property
    def names(self) -> tuple[str, ...]:
        """The categories present, in reading order."""
        return tuple(name for name, _ in self.objects)

    @property
    def absent(self) -> tuple[str, ...]:
        """The typical objects of the scene that the image lacks, the most typical first."""
        return tuple(name for name in SCENES[self.scene] if name not in self.names)


def layout(split: str, index: int) -> Layout:
    """Return the layout of one image; it depends on (split, index) alone.

    Raises:
        ValueError: the split is unknown, or the index is outside 0..999999.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if not 0 <= index < 1_000_000:
        raise ValueError(f"image index must lie in 0..999999, got {index}")
    rng = random.Random(f"layout {split} {index}")
    scene = rng.choice(sorted(SCENES))
    counts, typical = (_SECOND_COUNTS, _SECOND_TYPICAL) if split in SECOND else (_COUNTS, _TYPICAL)
    names = _draw(scene, rng.choice(counts), typical, rng)
    cells = sorted(rng.sample(range(CELLS), len(names)))
    return Layout(split, index, scene, tuple(zip(names, cells, strict=True)))


def layout_of(image_id: int) -> Layout:
    """Return the layout of the image with this id.

    Raises:
        ValueError: no image of the world has this id.
    """
    number, index = divmod(image_id, 1_000_000)
    splits = {number: split for split, number in SPLITS.items()}
    if number not in splits:
        raise ValueError(f"{image_id} is no image of the world: expected 1000000 to 6999999")
    return layout(splits[number], index)


def typicality(scene: str, name: str) -> float:
    """Return how typical an object is of a scene: (rank + 2) ** -1.5, or 0.01 if it is not in the list."""
    objects = SCENES[scene]
    return (objects.index(name) + 2) ** -1.5 if name in objects else 0.01


def weighted(names: tuple[str, ...], scene: str, rng: random.Random) -> str:
    """Draw one of ``names`` with weights ``typicality``."""
    return rng.choices(names, [typicality(scene, name) for name in names])[0]


def _draw(scene: str, count: int, typical: float, rng: random.Random) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        pool = SCENES[scene] if rng.random() < typical else CATEGORIES
        name = rng.choice(pool)
        if name not in names:
            names.append(name)
    return names
