"""Folders of parquet files of one schema, each file written in one step and never changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from visvm import storage

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 64 * 2**20  # in memory: 100 million rollouts of 5 KB are eight thousand files
FILE_SECONDS = 30.0


def read_rows(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a folder of parquet files, file by file."""
    for part in parts(folder):
        yield from read_part(part).to_pylist()


def parts(folder: str | Path) -> list[str]:
    """Return the files of a folder in the order they were written."""
    return [storage.join(str(folder), name) for name in storage.names(str(folder), "part-*.parquet")]


def read_part(part: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file, or some of its columns.

    Raises:
        ValueError: it is damaged.
    """
    from pyarrow.lib import ArrowException

    try:
        return storage.read_table(part, columns)
    except FileNotFoundError:
        raise
    except (ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{part} is damaged ({why}): delete it, and its rows are made again") from None


class PartFiles:
    """A folder of parquet files of one schema: rows are buffered and written a file at a time.

    A file is written once FILE_BYTES are buffered, or with the first rows that come ``seconds`` after the
    last file. Its name must be new, so the files are a log: if two processes write to one folder, one of
    them fails at its next file, and no row is there twice.
    """

    def __init__(self, folder: str | Path, schema: pa.Schema, *, seconds: float = FILE_SECONDS) -> None:
        self.folder, self.schema, self.seconds = str(folder), schema, seconds
        self._pending = schema.empty_table()
        # Not their count: one in the middle may be missing.
        self._next = 1 + max((_number(part) for part in parts(folder)), default=-1)
        self._written = time.monotonic()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of everything written."""
        import pyarrow as pa

        written = [read_part(part, names) for part in parts(self.folder)]
        return pa.concat_tables([self.schema.empty_table().select(names), *written])

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column of everything written."""
        return self.columns([name])[name]

    def add(self, rows: pa.Table) -> None:
        """Add rows of exactly the schema; write a file if enough are buffered or ``seconds`` have passed."""
        import pyarrow as pa

        assert rows.schema.equals(self.schema), f"{rows.schema} is not {self.schema}"
        self._pending = pa.concat_tables([self._pending, rows])
        waited = time.monotonic() - self._written
        if self._pending.nbytes >= FILE_BYTES or waited >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows.

        Raises:
            FileExistsError: another process has written this file.
        """
        if self._pending.num_rows:
            name = f"part-{self._next:05d}.parquet"
            storage.write_table(storage.join(self.folder, name), self._pending, new=True)
            self._pending = self.schema.empty_table()
            self._next += 1
        self._written = time.monotonic()


def _number(part: str) -> int:
    digits = PurePath(part).stem.removeprefix("part-")
    return int(digits) if digits.isdecimal() else -1
