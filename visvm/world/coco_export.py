"""Export of the world's images as a COCO folder: PNG files, instances_*.json and captions_*.json."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from visvm import storage
from visvm.world.rendering import SIZE, boxes, image
from visvm.world.scenes import CATEGORIES, Layout, layout
from visvm.world.writer import reference

# COCO's ids of the categories of the world.
COCO_IDS = {
    "person": 1,
    "bicycle": 2,
    "car": 3,
    "motorcycle": 4,
    "truck": 8,
    "boat": 9,
    "traffic light": 10,
    "bird": 16,
    "cat": 17,
    "dog": 18,
    "horse": 19,
    "sheep": 20,
    "cow": 21,
    "elephant": 22,
    "bear": 23,
    "zebra": 24,
    "giraffe": 25,
    "backpack": 27,
    "umbrella": 28,
    "sports ball": 37,
    "kite": 38,
    "bottle": 44,
    "cup": 47,
    "knife": 49,
    "spoon": 50,
    "bowl": 51,
    "banana": 52,
    "apple": 53,
    "sandwich": 54,
    "carrot": 57,
    "pizza": 59,
    "donut": 60,
    "cake": 61,
    "chair": 62,
    "couch": 63,
    "potted plant": 64,
    "tv": 72,
    "laptop": 73,
    "mouse": 74,
    "keyboard": 76,
    "cell phone": 77,
    "book": 84,
    "clock": 85,
    "vase": 86,
}


def make(out: str | Path, *, split: str, count: int, start: int = 0) -> list[str]:
    """Write images ``start`` .. ``start + count - 1`` of a split; return the paths of the PNG files.

    Layout: OUT/images/<12-digit id>.png, OUT/instances_SPLIT.json (boxes and categories) and
    OUT/captions_SPLIT.json (one short true caption per image).

    Raises:
        ValueError: the split is unknown or an index is outside 0..999999.
    """
    layouts = [layout(split, index) for index in range(start, start + count)]
    paths = [storage.join(str(out), "images", file_name(one)) for one in layouts]
    for one, path in zip(layouts, paths, strict=True):
        storage.write(path, png(one))
    for kind, annotate in (("instances", _instances), ("captions", _captions)):
        data = {"info": _INFO, "images": [_image(one) for one in layouts], **annotate(layouts)}
        storage.write(storage.join(str(out), f"{kind}_{split}.json"), json.dumps(data) + "\n")
    return paths


def png(one: Layout) -> bytes:
    """Return the file of the image of a layout."""
    data = io.BytesIO()
    image(one).save(data, "PNG")
    return data.getvalue()


def file_name(one: Layout) -> str:
    """Return the file name of an image: its id in twelve digits, as in COCO."""
    return f"{one.image_id:012d}.png"


_INFO = {"description": "visvm embedded world; drawings by OpenMoji (CC BY-SA 4.0)"}


def _image(one: Layout) -> dict[str, Any]:
    return {"id": one.image_id, "file_name": file_name(one), "width": SIZE, "height": SIZE}


def _instances(layouts: list[Layout]) -> dict[str, Any]:
    categories = [{"id": COCO_IDS[name], "name": name} for name in CATEGORIES]
    annotations = [
        _annotation(one, at, (left, top, side))
        for one in layouts
        for at, (left, top, side) in enumerate(boxes(one))
    ]
    return {"categories": categories, "annotations": annotations}


def _annotation(one: Layout, at: int, box: tuple[int, int, int]) -> dict[str, Any]:
    left, top, side = box
    return {
        "id": one.image_id * 10 + at,
        "image_id": one.image_id,
        "category_id": COCO_IDS[one.names[at]],
        "bbox": [left, top, side, side],
        "area": side * side,
        "iscrowd": 0,
    }


def _captions(layouts: list[Layout]) -> dict[str, Any]:
    annotations = [
        {"id": one.image_id, "image_id": one.image_id, "caption": reference(one)} for one in layouts
    ]
    return {"annotations": annotations}
