"""Rows on their way through a pipeline: a bad one carries its reason along and stops nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from visvm.images import decode, read
from visvm.records import Picture

Row = dict[str, Any]
logger = logging.getLogger(__name__)

UNIT = [("id", pa.string()), ("image_id", pa.string()), ("uri", pa.string()), ("prompt", pa.string())]
DATA = [("data", pa.binary())]
FAULT = [("stage", pa.string()), ("error", pa.string())]

UNITS = pa.schema(UNIT)
"""What a pipeline starts from: one caption or rollout to make, known by ``id``."""

LOADED = pa.schema(UNIT + DATA + FAULT)
"""A unit with its file's bytes, or with the stage that failed and why."""


def load(batch: pa.Table) -> pa.Table:
    """UNITS -> LOADED: read each picture's file."""
    rows: list[Row] = [{**row, "error": None} for row in batch.to_pylist()]
    return table(each(rows, _read, stage="read"), LOADED)


def pictures(rows: list[Row]) -> list[Row]:
    """Decode ``data`` into ``picture``."""
    return each(rows, _decode, stage="decode")


def each(rows: list[Row], work: Callable[[list[Row]], list[Row]], *, stage: str) -> list[Row]:
    """``work`` on the rows without an error; those it fails on get ``stage`` and ``error``.

    A batch that fails is halved until the rows at fault stand alone.
    """
    usable = [row for row in rows if row["error"] is None]
    done = {row["id"]: row for row in _halving(usable, work, stage)}
    return [done.get(row["id"], row) for row in rows]


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of exactly ``schema``; keys that are no column are left behind."""
    return pa.Table.from_pylist(rows, schema=schema)


def _halving(rows: list[Row], work: Callable[[list[Row]], list[Row]], stage: str) -> list[Row]:
    if not rows:
        return []
    try:
        return work(rows)
    except Exception as error:  # whatever a picture makes a decoder or a model raise
        if len(rows) == 1:
            logger.warning("%s failed for image %s", stage, rows[0]["image_id"], exc_info=True)
            return [{**rows[0], "stage": stage, "error": _reason(error)}]
    half = len(rows) // 2
    return _halving(rows[:half], work, stage) + _halving(rows[half:], work, stage)


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _read(rows: list[Row]) -> list[Row]:
    return [{**row, "data": read(row["uri"])} for row in rows]


def _decode(rows: list[Row]) -> list[Row]:
    return [{**row, "picture": _picture(row)} for row in rows]


def _picture(row: Row) -> Picture:
    return decode(row["data"], id=row["image_id"], uri=row["uri"])
