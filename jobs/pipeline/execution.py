"""Run units of work through actors and write the results to parquet files.

Batches are the same in every run, and an actor keeps nothing from one batch to the next. Only the driver
writes: whole batches as they finish, each file in one step. So whichever process is killed, the resumed run
gives every row once, equal to the bit to that of an undisturbed run (but for its seconds); only the order of
the rows in the files depends on time.

The price: all rows pass through one process (thousands per second, see docs/scaling.md), and it keeps the
units, about 2 KB each. Split a job of many million images with ``--shard``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from actors.batch.fault_isolation import pack, start_attempt_log, unpack
from jobs.capacity.preflight import check
from jobs.pipeline.changes import take_in
from jobs.pipeline.config import ImagesConfig
from jobs.pipeline.progress import Progress
from jobs.pipeline.stage import Stage
from jobs.runner.part_files import PartFiles
from visvm import storage
from visvm.schemas import ERRORS


def write_units(
    units: pa.Table, folder: str | Path, schema: pa.Schema, *, stages: Sequence[Stage], config: ImagesConfig
) -> int:
    """Run the units that ``folder`` lacks through the stages; write good rows there, others to errors/.

    Rows of an earlier run whose image has changed or is gone are set aside first.

    Return how many pieces of work were retried because the process that did them died.

    Raises:
        RuntimeError: more than ``max_error_share`` of the units failed.
    """
    check([stage.demand for stage in stages])
    errors = storage.join(storage.parent(str(folder)), "errors")
    storage.delete(errors)  # units that failed in an earlier run are retried
    good = PartFiles(folder, schema, seconds=config.commit_seconds)
    bad = PartFiles(errors, ERRORS, seconds=config.commit_seconds)
    units = take_in(units, good)
    done = good.column("id")
    batches = _batches(units, done, config.batch_size)
    num_todo = sum(batch.num_rows for batch in batches)
    progress = Progress(PurePath(folder).name, total=units.num_rows, done=units.num_rows - num_todo)
    attempts = start_attempt_log()
    for table in _run(batches, stages, config.patience, attempts):
        failed = pc.is_valid(table["error"])
        good.add(table.filter(pc.invert(failed)).select(schema.names))
        bad.add(_errors(table.filter(failed)))
        progress.add(table.num_rows, num_errors=pc.sum(failed).as_py() or 0)
        if progress.num_errors > config.max_error_share * units.num_rows:
            break
    good.flush()
    bad.flush()
    if progress.num_errors > config.max_error_share * units.num_rows:
        raise RuntimeError(
            f"{progress.num_errors} of {units.num_rows} units failed, more than max_error_share ="
            f" {config.max_error_share}; the reasons are in {errors}"
        )
    return ray.get(attempts.num_again.remote())


def _batches(units: pa.Table, done: pa.ChunkedArray, size: int) -> list[pa.Table]:
    """Return the batches of an undisturbed run, without the units that are done and without empty batches."""
    is_left = pc.invert(pc.is_in(units["id"], done))  # once: each call makes a table of all that is done
    starts = range(0, units.num_rows, size)
    left = [units.slice(start, size).filter(is_left.slice(start, size)) for start in starts]
    return [batch for batch in left if batch.num_rows]


def _run(
    batches: Sequence[pa.Table], stages: Sequence[Stage], patience: float, attempts: Any
) -> Iterator[pa.Table]:
    """Yield what the stages make of each batch, as it comes."""
    if not batches:
        return
    dataset: ray.data.Dataset = ray.data.from_arrow([pack(batch) for batch in batches])
    dataset.context.execution_no_progress_timeout_s = patience
    for stage in stages:
        dataset = stage.apply(dataset, attempts)
    for packed in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield unpack(packed)


def _errors(failed: pa.Table) -> pa.Table:
    columns = {"uri": "uri", "image_id": "image_id", "stage": "stage", "reason": "error"}
    return pa.table([failed[columns[name]] for name in ERRORS.names], schema=ERRORS)
