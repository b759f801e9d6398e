"""An image not yet read, and what its id is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from visvm.metrics.image_ids import image_key

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"})
ID_KEYS = ("image_id", "id", "__key__")
# Folders and files that systems and programs leave among images: macOS, Synology, Jupyter, Windows.
SYSTEM_NAMES = frozenset(
    {
        *("__MACOSX", "@eaDir", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found"),
    }
)


class Source(NamedTuple):
    """An image not yet read: its identity, and where ``visvm.images.read`` finds it."""

    image_id: str
    uri: str

    @property
    def seed_id(self) -> str:
        """What decides the image's prompt and shard."""
        return self.image_id


class FileSource(Source):
    """An image file, whose id is its name: what follows from it does not depend on the suffix."""

    @property
    def seed_id(self) -> str:
        """What decides the image's prompt and shard: its name without the suffix."""
        return without_suffix(self.image_id)


def is_image(name: str) -> bool:
    """Return whether a file's name ends as an image's does."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_system(name: str) -> bool:
    """Return whether a path below a folder is hidden, or a system's own."""
    return any(part.startswith(".") or part in SYSTEM_NAMES for part in name.split("/"))


def without_suffix(name: str) -> str:
    """Return an image file's name without its suffix."""
    return str(PurePosixPath(name).with_suffix("")) if is_image(name) else name


def id_or(given: Any, otherwise: str) -> str:
    """Return the id that a row gives as text, or another if it gives none (null or not a number).

    Raises:
        ValueError: it is no id.
    """
    return otherwise if given is None or given != given else image_key(given)


def check_unique(sources: Sequence[Source]) -> None:
    """Check that no id stands for two images.

    Raises:
        ValueError: one does, with its images.
    """
    counts = Counter(source.image_id for source in sources)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    if twice:
        first = [source.uri for source in sources if source.image_id == twice[0]]
        raise ValueError(
            f"{len(twice)} image ids stand for more than one image, such as {twice[0]!r}: {first}"
        )
