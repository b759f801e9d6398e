"""Files of this machine, and of any store that pyarrow knows by its URI."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from visvm.storage.retry import Unreachable
from visvm.storage.store import File, Kind

# Arrow raises a bare OSError for every error of a store; only its words tell what passes.
_PASSING = re.compile(
    r"NETWORK_CONNECTION|REQUEST_TIMEOUT|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|curlCode"
    r"|HTTP status (429|5\d\d)|response code (429|5\d\d)",
    re.IGNORECASE,
)


@contextmanager
def passing() -> Iterator[None]:
    """Raises Arrow's errors of what passes as ``Unreachable``, others as they are."""
    try:
        yield
    except OSError as error:
        if error.errno is None and _PASSING.search(str(error)):
            raise Unreachable(str(error)) from error
        raise


class ArrowStore:
    """One pyarrow filesystem."""

    def __init__(self, filesystem: FileSystem) -> None:
        self.filesystem = filesystem

    def read(self, path: str, limit: int | None) -> bytes:
        with passing(), self.filesystem.open_input_stream(path, compression=None) as stream:
            return stream.read(limit)

    def write(self, path: str, data: bytes, *, new: bool) -> None:
        if new and self.kind(path) == "file":
            raise FileExistsError(f"{path} exists already")
        with self._in_one_step(path) as partial, self.filesystem.open_output_stream(partial) as stream:
            stream.write(data)

    def kind(self, path: str) -> Kind:
        with passing():
            found = self.filesystem.get_file_info(path).type
        kinds: dict[FileType, Kind] = {FileType.File: "file", FileType.Directory: "folder"}
        return kinds.get(found)

    def walk(self, path: str, *, recursive: bool) -> Iterator[File]:
        selector = FileSelector(path, recursive=recursive, allow_not_found=True)
        with passing():
            found = self.filesystem.get_file_info(selector)
        for info in found:
            if info.type == FileType.File:
                yield File(info.path[len(path.rstrip("/")) + 1 :], info.size, str(info.mtime_ns))

    def delete(self, path: str) -> None:
        with passing():
            if self.kind(path) == "folder":
                self.filesystem.delete_dir(path)
            elif self.kind(path) == "file":
                self.filesystem.delete_file(path)

    def fetch(self, path: str, target: Path) -> None:
        with passing():
            pyarrow.fs.copy_files(path, str(target), self.filesystem, LocalFileSystem())

    def send(self, source: Path, path: str) -> None:
        with self._in_one_step(path) as partial:
            pyarrow.fs.copy_files(str(source), partial, LocalFileSystem(), self.filesystem)

    @contextmanager
    def _in_one_step(self, path: str) -> Iterator[str]:
        """A path to write to that takes the place of ``path`` at the end."""
        with passing():
            self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            partial = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                yield partial
                self.filesystem.move(partial, path)
            except BaseException:
                with suppress(OSError):
                    self.filesystem.delete_file(partial)
                raise
