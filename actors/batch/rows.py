"""Rows on their way through a pipeline: a bad one carries its reason along and stops nothing else."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from visvm.images import decode, read
from visvm.records import DecodedImage
from visvm.storage import Unreachable

Row = dict[str, Any]
logger = logging.getLogger(__name__)

UNIT = [("id", pa.string()), ("image_id", pa.string()), ("uri", pa.string()), ("prompt", pa.string())]
DATA = [("data", pa.large_binary())]
FAULT = [("stage", pa.string()), ("error", pa.string())]
NUM_READERS = 16

UNITS = pa.schema(UNIT + FAULT)
"""What a pipeline starts from: one caption or rollout to make, known by ``id``; or what failed, and why."""


def load(batch: pa.Table) -> list[Row]:
    """The rows of a batch of UNITS, with the ``data`` of each one's file and the ``image`` in it."""
    assert batch.schema.equals(UNITS), batch.schema
    return images(each(batch.to_pylist(), _read, stage="read"))


def images(rows: list[Row]) -> list[Row]:
    """Decode ``data`` into ``image``."""
    return each(rows, _decode, stage="decode")


def each(rows: list[Row], work: Callable[[list[Row]], list[Row]], *, stage: str) -> list[Row]:
    """``work`` on the rows without an error; those it fails on get ``stage`` and ``error``.

    A batch that fails is halved until the rows at fault stand alone: what they ran out of memory with,
    the halves have room for.
    """
    usable = [row for row in rows if row["error"] is None]
    done = {row["id"]: row for row in _halving(usable, work, stage)}
    return [done.get(row["id"], row) for row in rows]


def is_gpu_lost(error: Exception) -> bool:
    """Whether the error is a GPU's that answers nothing more in this process."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.AcceleratorError)


def table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table of exactly ``schema``; keys that are no column are left behind."""
    return pa.Table.from_pylist(rows, schema=schema)


def _halving(rows: list[Row], work: Callable[[list[Row]], list[Row]], stage: str) -> list[Row]:
    if not rows:
        return []
    try:
        return work(rows)
    except Unreachable:  # which says nothing of the rows
        raise
    except Exception as error:  # whatever an image makes a decoder or a model raise
        if is_gpu_lost(error):  # which says nothing of the rows
            raise
        if len(rows) == 1:
            logger.warning("%s failed for image %s", stage, rows[0]["image_id"], exc_info=True)
            return [{**rows[0], "stage": stage, "error": _reason(error)}]
    _give_back()
    half = len(rows) // 2
    return _halving(rows[:half], work, stage) + _halving(rows[half:], work, stage)


def _give_back() -> None:
    """Free what a try that failed has left: its error, and with it every frame, is gone by now."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _read(rows: list[Row]) -> list[Row]:
    with ThreadPoolExecutor(NUM_READERS) as pool:
        files = pool.map(read, [row["uri"] for row in rows])
        return [{**row, "data": data} for row, data in zip(rows, files, strict=True)]


def _decode(rows: list[Row]) -> list[Row]:
    return [{**row, "image": _image(row)} for row in rows]


def _image(row: Row) -> DecodedImage:
    return decode(row["data"], id=row["image_id"], uri=row["uri"])
