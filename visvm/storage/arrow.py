"""Files on this machine, and in any store whose URI scheme pyarrow supports."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from visvm.storage import local
from visvm.storage.retry import Unreachable
from visvm.storage.store import File, Kind

# Arrow raises a plain OSError for every error of a store: only the text says which are transient.
_TRANSIENT = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|curlCode"
    r"|HTTP status (429|5\d\d)|response code (429|5\d\d)",
    re.IGNORECASE,
)


@contextmanager
def transient_errors() -> Iterator[None]:
    """Raise transient errors of Arrow as ``Unreachable``, and all others unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno is None and _TRANSIENT.search(str(error)):
            raise Unreachable(str(error)) from error
        raise


class ArrowStore:
    """A ``Store`` over a pyarrow filesystem."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem

    def read(self, path: str, limit: int | None) -> bytes:
        with transient_errors(), self.filesystem.open_input_stream(path, compression=None) as stream:
            return stream.read(limit)

    def write(self, path: str, data: bytes, *, new: bool) -> None:
        if new and self.kind(path) == "file":
            raise FileExistsError(f"{path} already exists")
        with self._atomic(path) as partial, self.filesystem.open_output_stream(partial) as stream:
            stream.write(data)

    def kind(self, path: str) -> Kind:
        with transient_errors():
            found = self.filesystem.get_file_info(path).type
        kinds: dict[FileType, Kind] = {FileType.File: "file", FileType.Directory: "folder"}
        return kinds.get(found)

    def walk(self, path: str, *, recursive: bool) -> Iterator[File]:
        if isinstance(self.filesystem, LocalFileSystem):
            yield from local.walk(path, recursive=recursive)
            return
        selector = FileSelector(path, recursive=recursive, allow_not_found=True)
        with transient_errors():
            found = self.filesystem.get_file_info(selector)
        for info in found:
            if info.type == FileType.File:
                yield File(info.path[len(path.rstrip("/")) + 1 :], info.size, str(info.mtime_ns))

    def delete(self, path: str) -> None:
        with transient_errors():
            if self.kind(path) == "folder":
                self.filesystem.delete_dir(path)
            elif self.kind(path) == "file":
                self.filesystem.delete_file(path)

    def fetch(self, path: str, target: Path) -> None:
        with transient_errors():
            pyarrow.fs.copy_files(path, str(target), self.filesystem, LocalFileSystem())

    def send(self, source: Path, path: str) -> None:
        with self._atomic(path) as partial:
            pyarrow.fs.copy_files(str(source), partial, LocalFileSystem(), self.filesystem)

    @contextmanager
    def _atomic(self, path: str) -> Iterator[str]:
        """Give a temporary path to write to; it is renamed to ``path`` when the block ends."""
        with transient_errors():
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            partial = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                yield partial
                is_local = isinstance(self.filesystem, LocalFileSystem)
                if is_local:
                    local.sync(partial)  # else a power cut may leave an empty file under the new name
                self.filesystem.move(partial, path)
                if is_local:
                    local.sync(path.rpartition("/")[0] or "/")
            except BaseException:
                with suppress(OSError):
                    self.filesystem.delete_file(partial)
                raise
