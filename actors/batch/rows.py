"""The rows of a pipeline: a bad row carries its error along and does not stop the others."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from visvm.images import decode, read
from visvm.storage import Unreachable

Row = dict[str, Any]
logger = logging.getLogger(__name__)

UNIT = [("id", pa.string()), ("image_id", pa.string()), ("uri", pa.string()), ("prompt", pa.string())]
FAULT = [("stage", pa.string()), ("error", pa.string())]
NUM_READERS = 16

UNITS = pa.schema(UNIT + FAULT)
"""A unit of work: one caption or rollout to make, identified by ``id``. Failed ones have stage and error."""


def load(batch: pa.Table) -> list[Row]:
    """Return the rows of a batch with the decoded ``image`` of each; a file is read once for all its rows.

    Rows whose image cannot be read or decoded get an error. Images do not travel between stages: each stage
    reads them by their URI, so that none enters the object store.
    """
    rows = each(batch.to_pylist(), _read, stage="read")
    return each(rows, _decode, stage="decode")


def each(rows: list[Row], work: Callable[[list[Row]], list[Row]], *, stage: str) -> list[Row]:
    """Do ``work`` on the rows without an error; give those it fails on ``stage`` and ``error``.

    A batch that fails is halved until the failing rows are alone. So is one that ran out of memory: its
    halves need less.
    """
    usable = [row for row in rows if row["error"] is None]
    done = {row["id"]: row for row in _halving(usable, work, stage)}
    return [done.get(row["id"], row) for row in rows]


def is_gpu_lost(error: Exception) -> bool:
    """Return whether the error means that this process can no longer use its GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.AcceleratorError)


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Return the rows as a table of exactly ``schema``; other keys are dropped."""
    return pa.Table.from_pylist(rows, schema=schema)


def _halving(rows: list[Row], work: Callable[[list[Row]], list[Row]], stage: str) -> list[Row]:
    if not rows:
        return []
    try:
        return work(rows)
    except Unreachable:  # the store's fault, not the rows'
        raise
    except Exception as error:  # whatever an image makes a decoder or a model raise
        if is_gpu_lost(error):  # the GPU's fault, not the rows'
            raise
        if len(rows) == 1:
            logger.warning("%s failed for image %s", stage, rows[0]["image_id"], exc_info=True)
            return [{**rows[0], "stage": stage, "error": _reason(error)}]
    _give_back()
    half = len(rows) // 2
    return _halving(rows[:half], work, stage) + _halving(rows[half:], work, stage)


def _give_back() -> None:
    """Free the memory of a failed attempt, whose error, and with it all its frames, is gone by now."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _read(rows: list[Row]) -> list[Row]:
    uris = list(dict.fromkeys(row["uri"] for row in rows))
    with ThreadPoolExecutor(NUM_READERS) as pool:
        files = dict(zip(uris, pool.map(read, uris), strict=True))
    return [{**row, "data": files[row["uri"]]} for row in rows]


def _decode(rows: list[Row]) -> list[Row]:
    first = {(row["uri"], row["image_id"]): row for row in rows}
    images = {key: decode(row["data"], id=row["image_id"], uri=row["uri"]) for key, row in first.items()}
    return [{**_without_data(row), "image": images[row["uri"], row["image_id"]]} for row in rows]


def _without_data(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "data"}
