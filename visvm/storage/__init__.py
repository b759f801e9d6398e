"""Files and folders by path or URI: on this machine, in S3, or in any store that pyarrow supports.

Locations are strings: a path, or a URI such as "s3://bucket/run". Operations on a store that is temporarily
unavailable are retried for ``retry.SECONDS``; what is missing or forbidden is an error at once.
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
from urllib.parse import unquote

from visvm.storage import local
from visvm.storage.retry import Unreachable, with_retries
from visvm.storage.s3 import S3Store
from visvm.storage.store import File, Store, files_below

if TYPE_CHECKING:  # pyarrow takes half a second to import: the functions that need it do so
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.fs import FileSystem

__all__ = ["File", "Unreachable", "with_retries"]
T = TypeVar("T")


def is_remote(uri: str) -> bool:
    """Return whether ``uri`` lies outside the file system of this machine."""
    return "://" in uri and not local.is_file_uri(uri)


def absolute(uri: str) -> str:
    """Return the absolute path of a local file or folder, and a remote URI without its trailing slash."""
    if is_remote(uri):
        return uri.rstrip("/")
    return os.path.abspath(local.path_of(uri) if local.is_file_uri(uri) else os.path.expanduser(uri))


def join(uri: str, *names: str) -> str:
    """Join ``names`` to ``uri``; an absolute path or URI among them replaces what precedes it."""
    for name in names:
        uri = name if is_remote(name) or name.startswith("/") else f"{uri.rstrip('/')}/{name}"
    return uri


def resolve(folder: str, name: str) -> str:
    """Return the place that ``name``, written in a file of ``folder``, means: a URI, or a path from there.

    A file: URI, or a path of which only this form exists, may have percent escapes.
    """
    if local.is_file_uri(name):
        return name if "%" in name else absolute(name)
    place = join(folder, name)
    if "%" in name and not is_remote(place) and not exists(place) and exists(decoded := unquote(place)):
        return decoded
    return place


def parent(uri: str) -> str:
    """Return the folder that contains ``uri``."""
    return absolute(uri).rpartition("/")[0]


def read(uri: str, limit: int | None = None) -> bytes:
    """Return the bytes of a file, or the first ``limit`` of them; raise OSError if it cannot be read."""
    store, path = _at(uri)
    return with_retries(lambda: store.read(path, limit), f"reading {uri}")


def write(uri: str, data: bytes | str, *, new: bool = False) -> None:
    """Write a file atomically: readers see the old content or the new, never a part.

    Raises:
        FileExistsError: ``new`` is set and the file exists with other content; on S3 this also holds
            when two writers race.
        OSError: the file cannot be written.
    """
    store, path = _at(uri)
    content = data.encode() if isinstance(data, str) else data
    with_retries(lambda: store.write(path, content, new=new), f"writing {uri}")


def read_range(uri: str, start: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from ``start`` on, fewer at its end."""

    def read_part() -> bytes:
        with open_file(uri) as file:
            file.seek(start)
            return file.read(size)

    return reading(uri, read_part)


def open_file(uri: str) -> pa.NativeFile:
    """Open a file to read from any place of it; wrap reads in ``reading``, so that they are retried."""
    filesystem, path = _arrow(uri)
    return filesystem.open_input_file(path)


def is_file(uri: str) -> bool:
    """Return whether ``uri`` is an existing file."""
    return _kind(uri) == "file"


def is_folder(uri: str) -> bool:
    """Return whether ``uri`` is an existing folder; in S3, one that is not empty."""
    return _kind(uri) == "folder"


def exists(uri: str) -> bool:
    """Return whether ``uri`` is an existing file or folder."""
    return _kind(uri) is not None


def walk(uri: str, *, recursive: bool = True) -> Iterator[File]:
    """Yield the files of a folder, in no particular order; none if there is no folder."""
    store, path = _at(uri)
    if isinstance(store, S3Store):  # retries each page by itself
        return store.walk(path, recursive=recursive)
    return with_retries(lambda: store.walk(path, recursive=recursive), f"listing {uri}")


def names(uri: str, pattern: str) -> list[str]:
    """Return the sorted names of the files in a folder that match a pattern such as "*.parquet"."""
    return sorted(fnmatch.filter((file.name for file in walk(uri, recursive=False)), pattern))


def delete(uri: str) -> None:
    """Delete a file, or a folder with its contents; do nothing if neither exists."""
    store, path = _at(uri)
    with_retries(lambda: store.delete(path), f"deleting {uri}")


def fetch(uri: str, target: Path) -> None:
    """Copy one file to ``target`` on this machine."""
    store, path = _at(uri)
    with_retries(lambda: store.fetch(path, target), f"fetching {uri}")


def send(source: Path, uri: str) -> None:
    """Copy the file ``source`` of this machine to ``uri``."""
    store, path = _at(uri)
    with_retries(lambda: store.send(source, path), f"sending {uri}")


@contextmanager
def new_folder(uri: str) -> Iterator[Path]:
    """Give a local folder to write into; when the block ends, its files replace those of ``uri``.

    A local folder is replaced by one rename, a remote one file by file with config.json last.
    """
    if not is_remote(uri):
        partial, folder = Path(absolute(uri) + ".partial"), Path(absolute(uri))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for name in files_below(partial):
            (partial / name).chmod(0o644)  # safetensors writes files that their owner alone can read
            local.sync(str(partial / name))
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch)
        delete(uri)
        for name in files_below(Path(scratch)):
            send(Path(scratch, name), join(uri, name))


def parquet(uri: str) -> pq.ParquetFile:
    """Open a parquet file and read its footer; wrap later reads in ``reading``, so that they are retried."""
    return reading(uri, lambda: _parquet(uri))


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a parquet file, or some of its columns."""
    return reading(uri, lambda: _parquet(uri).read(columns=columns and [*columns]))


def reading(uri: str, work: Callable[[], T]) -> T:
    """Call ``work``, which reads from a file opened by ``parquet``, with the retries of ``read``."""
    from visvm.storage.arrow import transient_errors

    def attempt() -> T:
        with transient_errors():
            return work()

    return with_retries(attempt, f"reading {uri}")


def write_table(uri: str, table: pa.Table, *, new: bool = False) -> None:
    """Write a table as a parquet file, with the guarantees of ``write``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    write(uri, sink.getvalue().to_pybytes(), new=new)


def _parquet(uri: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    filesystem, path = _arrow(uri)
    return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)


def _kind(uri: str) -> str | None:
    store, path = _at(uri)
    return with_retries(lambda: store.kind(path), f"looking up {uri}")


def _at(uri: str) -> tuple[Store, str]:
    if uri.startswith("s3://"):
        return S3Store(), uri.removeprefix("s3://")
    from visvm.storage.arrow import ArrowStore

    filesystem, path = _arrow(uri)
    return ArrowStore(filesystem), path


def _arrow(uri: str) -> tuple[FileSystem, str]:
    """Return the filesystem of ``uri``, and its path in it."""
    from pyarrow.fs import LocalFileSystem

    if not is_remote(uri):
        return LocalFileSystem(), absolute(uri)
    scheme, _, rest = uri.partition("://")
    authority, _, path = rest.partition("/")
    # Only the bucket goes through Arrow's URI parser: paths may hold characters that URIs may not.
    filesystem, base = _connect(f"{scheme}://{authority}")
    return filesystem, f"{base.rstrip('/')}/{path}"


@cache
def _connect(base: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(base)
