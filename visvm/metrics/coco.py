"""What is in an image, from COCO annotation files: CHAIR's ground truth."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from visvm import storage
from visvm.metrics.chair import Variant, mentions
from visvm.metrics.image_ids import ImageIds, image_key
from visvm.metrics.vocabulary import CATEGORY_OF

Truth = dict[str, frozenset[str]]


class Annotations:
    """Every instances_*.json and captions_*.json of a folder."""

    def __init__(self, folder: str | Path) -> None:
        """Read them all.

        Raises:
            ValueError: no or malformed annotation files: which, and what is wrong.
        """
        self.folder = str(folder)
        self._instances, self._captions = (_load_all(self.folder, kind) for kind in ("instances", "captions"))
        self._ids = ImageIds()
        for path, data in {**self._instances, **self._captions}.items():
            for i, (image_id, file_name) in enumerate(_entries(path, data, "images", "id", "file_name")):
                with _at(path, "images", i):
                    self._ids.add(image_id, file_name)

    def resolve(self, image_ids: Iterable[Any]) -> dict[str, int | str]:
        """Return the annotated id of each name of an image, by its ``image_key``.

        Raises:
            ValueError: a name that is of no image, or may be of two.
        """
        return self._ids.resolve_all(image_ids, self.folder)

    def truth(self, image_ids: Iterable[Any], *, variant: Variant = "original") -> Truth:
        """Return the categories in each image: its instances and what its captions name.

        An image goes by its id or the name of its file; the result is keyed by the ``image_key`` of these.

        Raises:
            ValueError: an unknown image, or annotations that are malformed or of no image.
        """
        wanted = self.resolve(image_ids)
        objects: dict[int | str, set[str]] = {image_id: set() for image_id in wanted.values()}
        for path, data in self._instances.items():
            categories = _categories(path, data)
            for found, category_id in self._annotated(path, data, "category_id"):
                if image_key(category_id) not in categories:
                    raise ValueError(f"{path}: category_id {category_id!r} is not among its categories")
                if found in objects:
                    objects[found].add(categories[image_key(category_id)])
        for path, data in self._captions.items():
            for found, caption in self._annotated(path, data, "caption"):
                if found in objects:
                    objects[found].update(one.category for one in mentions(str(caption), variant=variant))
        return {text: frozenset(objects[image_id]) for text, image_id in wanted.items()}

    def _annotated(self, path: str, data: Any, key: str) -> Iterator[tuple[int | str, Any]]:
        """Yield each annotation's image, by its annotated id, and its ``key``."""
        known: dict[str, int | str] = {}
        for i, (image_id, value) in enumerate(_entries(path, data, "annotations", "image_id", key)):
            with _at(path, "annotations", i):
                text = image_key(image_id)
                if text not in known:
                    known[text] = self._ids.resolve(text)
            yield known[text], value


def read_truth(folder: str | Path, image_ids: Iterable[Any], *, variant: Variant = "original") -> Truth:
    """Return the categories in each image, as ``Annotations.truth`` does."""
    return Annotations(folder).truth(image_ids, variant=variant)


def objects_by_file(folder: str | Path) -> dict[str, list[str]]:
    """Return the distinct categories of each image's instances, in order, by the name of its file.

    Raises:
        ValueError: no or malformed instances_*.json: which, and what is wrong.
    """
    objects: dict[str, dict[str, None]] = {}  # a dict keeps the order
    for path, data in _load_all(str(folder), "instances").items():
        categories = _categories(path, data)
        files = {image_key(key): str(name) for key, name in _entries(path, data, "images", "id", "file_name")}
        objects |= {name: objects.get(name, {}) for name in files.values()}
        for i, keys in enumerate(_entries(path, data, "annotations", "image_id", "category_id")):
            with _at(path, "annotations", i):
                image, category = (image_key(key) for key in keys)
                objects[files[image]][categories[category]] = None
    return {name: list(found) for name, found in objects.items()}


@contextmanager
def _at(path: str, section: str, index: int) -> Iterator[None]:
    """Say where in the file an error is."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{path}: {section}[{index}] is of image {error}, which is in no file") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {section}[{index}]: {error}") from None


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


def _categories(path: str, data: Any) -> dict[str, str]:
    """Return the category of each category id."""
    found = {}
    for category_id, name in _entries(path, data, "categories", "id", "name"):
        if str(name) not in CATEGORY_OF:
            raise ValueError(f"{path}: category {name!r} is none of COCO's 80")
        found[image_key(category_id)] = CATEGORY_OF[name]
    return found
