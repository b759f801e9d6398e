"""Folders of parquet files of one schema, each file written in one step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 64


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a folder of parquet files, file by file."""
    for path in parts(folder):
        yield from pq.read_table(path).to_pylist()


def parts(folder: Path) -> list[Path]:
    """The finished files of a folder, in the order they were written."""
    return sorted(folder.glob("part-*.parquet"))


class Files:
    """A folder of parquet files of one schema: rows gather and go to the next file in one step."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        self._pending = schema.empty_table()
        folder.mkdir(parents=True, exist_ok=True)
        self._next = len(parts(folder))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of everything written."""
        written = [pq.read_table(path, columns=[name]) for path in parts(self.folder)]
        return pa.concat_tables([self.schema.empty_table().select([name]), *written])[name]

    def add(self, rows: pa.Table) -> None:
        """Take rows of exactly the schema; write them once there are enough for a file."""
        assert rows.schema.equals(self.schema), f"{rows.schema} is not {self.schema}"
        self._pending = pa.concat_tables([self._pending, rows])
        if self._pending.num_rows >= ROWS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._pending.num_rows:
            write_table(self._pending, self.folder / f"part-{self._next:05d}.parquet")
            self._pending = self.schema.empty_table()
            self._next += 1


def write_table(table: pa.Table, path: Path) -> None:
    """Write one parquet file in one step: readers see the whole of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)
