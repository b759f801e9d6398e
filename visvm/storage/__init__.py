"""Files and folders by path or URI: of this machine, of S3, of any store that pyarrow knows.

A place is a string: a path, or a URI such as "s3://bucket/run". A store that is away is waited for
(``retry.SECONDS``); what is missing or forbidden is an error at once.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from visvm.storage.retry import Unreachable, patiently
from visvm.storage.s3 import S3Store
from visvm.storage.store import File, Store, files_below

if TYPE_CHECKING:  # pyarrow takes half a second to import: the functions that need it do so
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.fs import FileSystem

__all__ = ["File", "Unreachable", "patiently"]
LOCAL = "file://"
T = TypeVar("T")


def is_remote(uri: str) -> bool:
    """Whether ``uri`` is a URI of another place than this machine's file system."""
    return "://" in uri and not uri.startswith(LOCAL)


def absolute(uri: str) -> str:
    """The full path of a local place; a URI of another is complete already."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(os.path.expanduser(uri.removeprefix(LOCAL)))


def join(uri: str, *names: str) -> str:
    """The place ``names`` below ``uri``; an absolute path or URI among them starts anew."""
    for name in names:
        uri = name if is_remote(name) or name.startswith("/") else f"{uri.rstrip('/')}/{name}"
    return uri


def parent(uri: str) -> str:
    """The folder that a place is in."""
    return absolute(uri).rpartition("/")[0]


def read(uri: str, limit: int | None = None) -> bytes:
    """The bytes of a file, or the first ``limit`` of them; OSError if it cannot be read."""
    store, path = _at(uri)
    return patiently(lambda: store.read(path, limit), f"reading {uri}")


def write(uri: str, data: bytes | str, *, new: bool = False) -> None:
    """Write a file in one step: readers see the old one or the new one, never a part.

    Raises:
        FileExistsError: it shall be ``new``, and another is there; on S3 also if both are written at once.
        OSError: it cannot be written.
    """
    store, path = _at(uri)
    content = data.encode() if isinstance(data, str) else data
    patiently(lambda: store.write(path, content, new=new), f"writing {uri}")


def is_file(uri: str) -> bool:
    """Whether a file is there."""
    return _kind(uri) == "file"


def is_folder(uri: str) -> bool:
    """Whether a folder is there; on S3, one with something in it."""
    return _kind(uri) == "folder"


def exists(uri: str) -> bool:
    """Whether a file or a folder is there."""
    return _kind(uri) is not None


def walk(uri: str, *, recursive: bool = True) -> Iterator[File]:
    """The files of a folder, in no order, as they are listed; none if there is no folder."""
    store, path = _at(uri)
    if isinstance(store, S3Store):  # page by page, each waited for
        return store.walk(path, recursive=recursive)
    return patiently(lambda: store.walk(path, recursive=recursive), f"listing {uri}")


def names(uri: str, pattern: str) -> list[str]:
    """The names, in order, of the files in a folder that match a pattern such as "*.parquet"."""
    return sorted(fnmatch.filter((file.name for file in walk(uri, recursive=False)), pattern))


def delete(uri: str) -> None:
    """Remove a file, or a folder with all that is in it; nothing if neither is there."""
    store, path = _at(uri)
    patiently(lambda: store.delete(path), f"deleting {uri}")


def fetch(uri: str, target: Path) -> None:
    """Copy one file to this machine."""
    store, path = _at(uri)
    patiently(lambda: store.fetch(path, target), f"fetching {uri}")


def send(source: Path, uri: str) -> None:
    """Copy one file of this machine."""
    store, path = _at(uri)
    patiently(lambda: store.send(source, path), f"sending {uri}")


@contextmanager
def new_folder(uri: str) -> Iterator[Path]:
    """A folder of this machine to write into; its files take the place of ``uri`` when the block ends.

    In one step where ``uri`` is local; elsewhere file by file, config.json last.
    """
    if not is_remote(uri):
        partial, folder = Path(absolute(uri) + ".partial"), Path(absolute(uri))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        delete(uri)
        for name in files_below(Path(scratch)):
            send(Path(scratch, name), join(uri, name))


def parquet(uri: str) -> pq.ParquetFile:
    """A parquet file to read parts of; its footer is read now."""
    return reading(uri, lambda: _parquet(uri))


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet file, or some of its columns."""
    return reading(uri, lambda: _parquet(uri).read(columns=columns and [*columns]))


def reading(uri: str, work: Callable[[], T]) -> T:
    """What ``work`` reads of a file that was opened by ``parquet``, with the patience of ``read``."""
    from visvm.storage.arrow import passing

    def attempt() -> T:
        with passing():
            return work()

    return patiently(attempt, f"reading {uri}")


def write_table(uri: str, table: pa.Table, *, new: bool = False) -> None:
    """Write a parquet file, as ``write`` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write(uri, sink.getvalue().to_pybytes(), new=new)


def _parquet(uri: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    filesystem, path = _arrow(uri)
    return pq.ParquetFile(path, filesystem=filesystem)


def _kind(uri: str) -> str | None:
    store, path = _at(uri)
    return patiently(lambda: store.kind(path), f"looking for {uri}")


def _at(uri: str) -> tuple[Store, str]:
    if uri.startswith("s3://"):
        return S3Store(), uri.removeprefix("s3://")
    from visvm.storage.arrow import ArrowStore

    filesystem, path = _arrow(uri)
    return ArrowStore(filesystem), path


def _arrow(uri: str) -> tuple[FileSystem, str]:
    """The filesystem of a place, and the place's path in it."""
    from pyarrow.fs import LocalFileSystem

    if not is_remote(uri):
        return LocalFileSystem(), absolute(uri)
    scheme, _, rest = uri.partition("://")
    authority, _, path = rest.partition("/")
    # Only the bucket goes through Arrow's parser: paths may hold what no URI may.
    filesystem, base = _connect(f"{scheme}://{authority}")
    return filesystem, f"{base.rstrip('/')}/{path}"


@cache
def _connect(place: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(place)
