"""What is in an image, from COCO annotation files: CHAIR's ground truth."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from visvm import storage
from visvm.metrics.chair import Variant, mentions
from visvm.metrics.vocabulary import CATEGORY_OF

_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|avif)\Z", re.IGNORECASE)

Truth = dict[str, frozenset[str]]


def read_truth(folder: str | Path, image_ids: Iterable[int | str], *, variant: Variant = "original") -> Truth:
    """The categories in each image, by ``image_key``: its instances and what its captions name.

    Reads every instances_*.json and captions_*.json of ``folder``. An image goes by its id or by
    the name of its file.

    Raises:
        ValueError: no or malformed annotation files (which, and what is wrong), or an unknown image.
    """
    instances, captions = (_load_all(str(folder), kind) for kind in ("instances", "captions"))
    names = _names({**instances, **captions})
    keys = {image_key(image_id) for image_id in image_ids}
    _check_known(keys, names, folder)
    wanted = {names[key] for key in keys}
    objects: dict[str, set[str]] = defaultdict(set)
    for path, data in instances.items():
        _add_instances(path, data, wanted, objects)
    for path, data in captions.items():
        for image_id, caption in _entries(path, data, "annotations", "image_id", "caption"):
            if str(image_id) in wanted:
                objects[str(image_id)].update(one.category for one in mentions(str(caption), variant=variant))
    return {key: frozenset(objects[names[key]]) for key in keys}


def image_key(image_id: int | str) -> str:
    """One key for 139, "139" and "val/000000000139.jpg"; other names without folder and suffix."""
    name = _SUFFIX.sub("", PurePosixPath(str(image_id)).name)
    return str(int(name)) if name.isdecimal() else name


def _load_all(folder: str, kind: str) -> dict[str, Any]:
    paths = [storage.join(folder, name) for name in storage.names(folder, f"{kind}_*.json")]
    if not paths:
        raise ValueError(f"no {kind}_*.json in {folder}: CHAIR needs COCO's instances and its captions")
    return {path: _load(path) for path in paths}


def _load(path: str) -> Any:
    try:
        return json.loads(storage.read(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None


def _entries(path: str, data: Any, section: str, *keys: str) -> Iterator[tuple[Any, ...]]:
    entries = data.get(section) if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: expected an object with a list "{section}"')
    for i, entry in enumerate(entries):
        try:
            yield tuple(entry[key] for key in keys)
        except (KeyError, TypeError):
            raise ValueError(f"{path}: {section}[{i}] needs {' and '.join(keys)}, got {entry!r}") from None


def _names(files: dict[str, Any]) -> dict[str, str]:
    """The id, as text, of every image by its ``image_key`` and by that of its file name."""
    names: dict[str, str] = {}
    for path, data in files.items():
        for image_id, file_name in _entries(path, data, "images", "id", "file_name"):
            names[image_key(file_name)] = str(image_id)
    return names | {image_key(image_id): image_id for image_id in names.values()}


def _check_known(keys: set[str], names: dict[str, str], folder: str | Path) -> None:
    unknown = sorted(keys - names.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(keys)} image ids are in no annotation file of {folder}: "
            + ", ".join(map(repr, unknown[:3]))
        )


def _add_instances(path: str, data: Any, wanted: set[str], objects: dict[str, set[str]]) -> None:
    category_of = {}
    for category_id, name in _entries(path, data, "categories", "id", "name"):
        if str(name) not in CATEGORY_OF:
            raise ValueError(f"{path}: category {name!r} is none of COCO's 80")
        category_of[str(category_id)] = CATEGORY_OF[name]
    for image_id, category_id in _entries(path, data, "annotations", "image_id", "category_id"):
        if str(category_id) not in category_of:
            raise ValueError(f"{path}: category_id {category_id!r} is not among its categories")
        if str(image_id) in wanted:
            objects[str(image_id)].add(category_of[str(category_id)])
