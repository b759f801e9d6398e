"""The rollouts that train-value is given: parquet files, checked before training starts."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from visvm import storage
from visvm.schemas import RESPONSE, ROLLOUTS
from visvm.tables import table_files


def rollout_files(folder: str) -> list[str]:
    """Return the parquet files of a rollouts folder or of a run folder (a path or a URI), in order.

    Raises:
        ValueError: it is missing or empty, or holds something else.
    """
    files = table_files(folder, "rollouts")
    try:
        num_rows = sum(map(_count, files))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"cannot read rollouts from {folder}: {str(error).splitlines()[0]}") from None
    if not num_rows:
        raise ValueError(f"rollouts = {folder}: no rollouts in it")
    return files


def content_hashes(files: Iterable[str]) -> dict[str, str]:
    """Return the content hash of every image of the rollouts, by its URI."""
    tables = [storage.read_table(file, ["uri", "content_hash"]).to_pylist() for file in files]
    return {row["uri"]: row["content_hash"] for table in tables for row in table}


def _count(file: str) -> int:
    """Return the number of rows of a parquet file that must hold rollouts."""
    parquet = storage.parquet(file)
    schema = parquet.schema_arrow
    missing = set(ROLLOUTS.names) - set(schema.names)
    if not missing:
        responses = schema.field("responses").type
        has = {field.name for field in responses.value_type} if pa.types.is_list(responses) else set()
        missing = {f"responses.{field.name}" for field in RESPONSE} - {f"responses.{name}" for name in has}
    if missing:
        raise ValueError(f"{file} holds no rollouts: {', '.join(sorted(missing))} is missing")
    return parquet.metadata.num_rows
