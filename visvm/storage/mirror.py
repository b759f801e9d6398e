"""Local copies of remote model directories, fetched once per version of their files."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visvm import storage
from visvm.storage.store import File

SETTINGS_BYTES = 16 * 2**20  # configs and tokenizers are smaller, weights larger
logger = logging.getLogger(__name__)


def local(name: str) -> str:
    """Return a local directory with the files of a remote one; other names are returned unchanged.

    The copy is made once for all processes of a machine, in VISVM_CACHE (default: ~/.cache/visvm), and
    again when a file of the remote directory changes.

    Raises:
        ValueError: the remote directory does not exist or cannot be read.
    """
    return str(_copy(name, None)) if storage.is_remote(name) else name


def settings(name: str) -> str:
    """Like ``local``, but copy no weights: enough to tell what kind of model it is."""
    return str(_copy(name, SETTINGS_BYTES)) if storage.is_remote(name) else name


def _copy(uri: str, largest: int | None) -> Path:
    try:
        files = [file for file in storage.walk(uri) if largest is None or file.size <= largest]
        if not files:
            raise ValueError(f"model {uri}: no such directory")
        folder = _cache() / _key(uri, files)
        with _locked(folder.with_suffix(".lock")):
            if not folder.exists():
                _fetch(uri, files, folder)
        return folder
    except OSError as error:
        raise ValueError(f"cannot read model {uri}: {error}") from None


def _fetch(uri: str, files: list[File], folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    logger.info("fetching %s, %.3g GB", uri, sum(file.size for file in files) / 1e9)
    for file in files:
        target = partial / file.name
        if not target.resolve().is_relative_to(partial.resolve()):
            raise ValueError(f"model {uri}: the file name {file.name!r} leads out of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.fetch(storage.join(uri, file.name), target)
    partial.rename(folder)


def _cache() -> Path:
    folder = Path(os.environ.get("VISVM_CACHE") or "~/.cache/visvm").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(uri: str, files: list[File]) -> str:
    return hashlib.sha256(repr((uri, sorted(files))).encode()).hexdigest()[:32]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
