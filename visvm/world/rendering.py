"""Drawing of images: a plain background in two colours, and sprites on a loose 3 x 3 grid."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from visvm.world.scenes import CATEGORIES, GRID, Layout
from visvm.world.sprites import SIZES, sprites

SIZE = 96
CELL = SIZE // GRID
Box = tuple[int, int, int]

# Scene -> colours (RGB) of the background above and below the horizon.
_COLOURS = {
    "kitchen": ((246, 236, 205), (214, 190, 150)),
    "picnic": ((190, 224, 246), (170, 214, 140)),
    "living room": ((226, 214, 232), (176, 150, 130)),
    "office": ((224, 232, 236), (170, 178, 188)),
    "street": ((200, 214, 230), (150, 150, 154)),
    "farm": ((206, 232, 250), (200, 190, 120)),
    "safari park": ((250, 226, 176), (216, 186, 116)),
    "beach": ((168, 220, 250), (240, 222, 170)),
}


_SHIFT = 10  # of every colour channel of a background, at most
_LEAST_BACKGROUND = 0.5  # of the pixels: no drawing of 6,000 has less than 0.73


def draw(layout: Layout) -> np.ndarray:
    """Draw a layout as RGB bytes [96, 96, 3]; they depend on (split, index) alone."""
    # Data: the word "picture" in the seed determines every image of the world.
    rng = random.Random(f"picture {layout.split} {layout.index}")
    pixels = _background(layout.scene, rng)
    for (name, _), box in zip(layout.objects, boxes(layout), strict=True):
        _paste(pixels, name, box)
    return pixels


def image(layout: Layout) -> Image.Image:
    """Return the image of a layout as a PIL image."""
    return Image.fromarray(draw(layout))


def is_drawing(pixels: Image.Image) -> bool:
    """Return whether an RGB image may be one of the world's own: its size, and a colour of a background.

    It is true of every image that ``image`` draws, and of next to nothing else.
    """
    if pixels.size != (SIZE, SIZE):
        return False
    colours = np.asarray(pixels).reshape(-1, 3)[:: CELL // 2].astype(np.int16)
    backgrounds = np.array([colour for pair in _COLOURS.values() for colour in pair], dtype=np.int16)
    near = np.abs(colours[:, None] - backgrounds[None]).max(axis=2) <= _SHIFT
    return bool(near.any(axis=1).mean() >= _LEAST_BACKGROUND)


def boxes(layout: Layout) -> list[Box]:
    """Return (left, top, side) of each object's square, in pixels, in the order of ``layout.objects``."""
    rng = random.Random(f"boxes {layout.split} {layout.index}")
    return [_place(cell, rng) for _, cell in layout.objects]


def _place(cell: int, rng: random.Random) -> Box:
    size = rng.choice(SIZES)
    row, column = divmod(cell, GRID)
    slack = CELL - size
    return column * CELL + rng.randint(0, slack), row * CELL + rng.randint(0, slack), size


def _background(scene: str, rng: random.Random) -> np.ndarray:
    back, floor = _COLOURS[scene]
    shift = [rng.randint(-_SHIFT, _SHIFT) for _ in range(3)]
    pixels = np.empty((SIZE, SIZE, 3), dtype=np.int16)
    horizon = rng.randint(SIZE // 3, 2 * SIZE // 3)
    pixels[:horizon], pixels[horizon:] = back, floor
    return np.clip(pixels + np.array(shift, dtype=np.int16), 0, 255).astype(np.uint8)


def _paste(pixels: np.ndarray, name: str, box: Box) -> None:
    left, top, size = box
    sprite = sprites()[size][CATEGORIES.index(name)].astype(np.uint16)
    under = pixels[top : top + size, left : left + size]
    alpha = sprite[..., 3:]
    under[:] = (sprite[..., :3] * alpha + under * (255 - alpha)) // 255
