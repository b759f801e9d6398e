"""Read the parquet files of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visvm import storage


def table_files(place: str, kind: str) -> list[str]:
    """Return a parquet file, or those of a folder in order; a run folder stands for its subfolder ``kind``.

    Raises:
        ValueError: ``place`` does not exist or has no parquet files.
    """
    place = storage.absolute(place)
    try:
        if storage.is_file(place):
            return [place]
        for folder in (storage.join(place, kind), place):
            if found := storage.names(folder, "*.parquet"):
                return [storage.join(folder, name) for name in found]
    except OSError as error:
        raise ValueError(f"cannot read {kind} from {place}: {error}") from None
    missing = "no parquet files in it" if storage.exists(place) else "no such file or folder"
    raise ValueError(f"cannot read {kind} from {place}: {missing}")


def read_columns(place: str, kind: str, *, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of the files that ``table_files`` finds, with these columns.

    Raises:
        ValueError: ``place`` does not exist, or a column is missing.
    """
    import pyarrow as pa

    try:
        tables = [storage.read_table(file, columns) for file in table_files(place, kind)]
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot read {kind} from {place}: {reason}") from None
    for table in tables:
        if missing := set(columns) - set(table.column_names):
            raise ValueError(f"{place} holds no {kind}: column {sorted(missing)} is missing")
    return [row for table in tables for row in table.to_pylist()]
