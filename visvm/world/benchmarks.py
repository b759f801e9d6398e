"""AMBER-, POPE- and MMHal-shaped sets of the world: their files, made from what each image is known to show.

The world's policies describe and nothing else, so an answer is their caption; a yes/no question about an
object is answered by whether the caption names it (as in offline POPE, Chen et al. 2024, arXiv 2403.00425).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from visvm import storage
from visvm.metrics.chair import chair
from visvm.world.scenes import CATEGORIES, Layout

QUERY = "Describe this image."


def word(name: str) -> str:
    """Return the one word that stands for a category in AMBER's lists of single nouns."""
    return name.rpartition(" ")[2]


def write_amber(folder: str, layouts: Iterable[Layout]) -> None:
    """Write a folder as AMBER's authors publish it: what is there, and what such scenes usually hold."""
    annotations, queries = [], []
    for one in layouts:
        truth, imagined = sorted(map(word, one.names)), sorted(map(word, one.absent))
        key = one.image_id
        annotations.append({"id": key, "type": "generative", "truth": truth, "hallu": imagined})
        queries.append({"id": key, "image": f"{key:012d}.png", "query": QUERY})
    data = storage.join(folder, "data")
    storage.write(storage.join(data, "annotations.json"), json.dumps(annotations))
    storage.write(storage.join(data, "query/query_all.json"), json.dumps(queries))
    storage.write(storage.join(data, "relation.json"), json.dumps({word(name): [] for name in CATEGORIES}))
    storage.write(storage.join(data, "safe_words.txt"), "")


def rating(caption: str, one: Layout) -> int:
    """Return the rating 0..6 of a caption by MMHal-Bench's scale, from the truth instead of a judge.

    Without hallucination 3, and one more if at least a third, two thirds or all of the objects are named;
    with one 0, and one more from two thirds and from all on.
    """
    found = chair(caption, one.names)
    share = len(found.recalled) / len(one.names)
    level = sum(share >= bound for bound in (1 / 3, 2 / 3, 1))
    return max(0, level - 1) if found.hallucinated else 3 + level


def replies(captions: Mapping[Layout, str]) -> list[dict[str, Any]]:
    """Return the ratings of captions as a judge's replies, which `visvm mmhal --judged` reads."""
    return [
        {"choices": [{"message": {"content": f"Rating: {rating(text, one)}"}}]}
        for one, text in captions.items()
    ]
