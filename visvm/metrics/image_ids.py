"""One image under several names: its id as a number or text, padded or not, or the name of its file."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

_SUFFIX = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|ppm|avif)\Z", re.IGNORECASE)
_NUMBER = re.compile(r"(?P<prefix>COCO_[A-Za-z]+\d{4}_)?0*(?P<number>\d+)", re.ASCII)
_EXACT = 2.0**53  # above, several whole numbers are one float
_WHOLE = re.compile(r"(\d+)\.0+", re.ASCII)


class Image(NamedTuple):
    """An image of an annotation file."""

    id: int | str
    file_name: str


class ImageIds:
    """The images of annotation files, found by any of their names.

    A name is an image's id (42, 42.0, "42", "000000000042") or that of its file, with or without suffix and
    folders ("COCO_val2014_000000000042.jpg"). The exact text counts first. Otherwise every image that the
    name may mean is considered: folders and COCO's prefixes must agree where both have them, and a name
    that may mean two images is refused.
    """

    def __init__(self) -> None:
        self._images: dict[str, Image] = {}
        self._exact: dict[str, set[str]] = defaultdict(set)
        self._similar: dict[str, set[tuple[str, str]]] = defaultdict(set)  # by stem: an image, its name

    def add(self, image_id: Any, file_name: Any) -> None:
        """Add an image of an annotation file; another file may hold it again.

        Raises:
            ValueError: it has no usable id, or its id stands for another file already.
        """
        name, key = _slashes(file_name), image_key(image_id)
        known = self._images.get(key) or self._padded(key, name)
        if known is None:
            self._images[key] = known = Image(int(key) if key == _digits(key) else key, name)
            self._similar[_stem(key)].add((key, key))
        elif _stem(known.file_name) != _stem(name) or not _agree(known.file_name, name):
            raise ValueError(f"image id {image_id!r} is {file_name!r} here and {known.file_name!r} elsewhere")
        own = image_key(known.id)
        self._exact[key].add(own)
        self._exact[name].add(own)
        self._similar[_stem(name)].add((own, name))

    def _padded(self, key: str, name: str) -> Image | None:
        """Return the image of this file whose id is the same number, written otherwise."""
        same = (self._images[other] for other in self._exact.get(name, ()))
        return next((one for one in same if _digits(image_key(one.id)) == _digits(key) != ""), None)

    def resolve(self, name: Any) -> int | str:
        """Return the id of the image that ``name`` means.

        Raises:
            KeyError: no image has this name.
            ValueError: it is no name of an image, or may mean two of them.
        """
        text = _slashes(image_key(name))
        similar = self._similar.get(_stem(text), ())
        found = self._exact.get(text) or {key for key, other in similar if self._fits(text, key, other)}
        if not found:
            raise KeyError(name)
        if len(found) > 1:
            meant = " or ".join(repr(tuple(self._images[key])) for key in sorted(found)[:2])
            raise ValueError(f"image id {name!r} may mean {meant} (id, file name)")
        return self._images[next(iter(found))].id

    def _fits(self, text: str, key: str, name: str) -> bool:
        file_name = self._images[key].file_name
        return _agree(text, name) and (_stem(file_name) != _stem(text) or _agree(text, file_name))

    def resolve_all(self, names: Iterable[Any], where: str) -> dict[str, int | str]:
        """Return the id of each name, by its ``image_key``.

        Raises:
            ValueError: some names are not of an image of ``where``, or may mean two.
        """
        found, unknown = {}, []
        for text in dict.fromkeys(map(image_key, names)):
            try:
                found[text] = self.resolve(text)
            except KeyError:
                unknown.append(text)
        if unknown:
            named, count = ", ".join(map(repr, unknown[:3])), len(unknown) + len(found)
            raise ValueError(
                f"{len(unknown)} of {count} image ids are in no annotation file of {where}: {named}"
            )
        return found


def image_key(image_id: Any) -> str:
    """Return an image id as text: whole numbers without a fraction, text as it is.

    Raises:
        ValueError: it is neither a whole number nor text, or empty.
    """
    if isinstance(image_id, float) and abs(image_id) < _EXACT and image_id.is_integer():
        return str(int(image_id))
    if isinstance(image_id, bool) or not isinstance(image_id, int | str) or image_id == "":
        raise ValueError(f"an image id must be a whole number or text, got {image_id!r}")
    text = str(image_id)
    return whole[1] if (whole := _WHOLE.fullmatch(text)) else text


def _slashes(name: Any) -> str:
    return str(name).replace("\\", "/").removeprefix("./")


def _digits(text: str) -> str:
    """Return the number that a text of digits is, "" for others."""
    return str(int(text)) if text.isascii() and text.isdecimal() else ""


def _parts(name: str) -> tuple[list[str], str, str]:
    """Return the folders, the prefix that COCO gives to its files, and the rest: a number if it is one."""
    *folders, base = unicodedata.normalize("NFC", name).split("/")  # macOS writes accents apart
    base = _SUFFIX.sub("", base)
    number = _NUMBER.fullmatch(base)
    if number is None:
        return folders, "", base
    return folders, number["prefix"] or "", number["number"]


def _stem(name: str) -> str:
    return _parts(name)[2]


def _agree(name: str, other: str) -> bool:
    """Return whether two names may be of one file: neither has a folder or prefix that the other denies."""
    (folders, prefix, _), (others, other_prefix, _) = _parts(name), _parts(other)
    common = min(len(folders), len(others))
    same_folder = common == 0 or folders[-common:] == others[-common:]
    return same_folder and (not prefix or not other_prefix or prefix == other_prefix)
