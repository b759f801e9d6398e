"""Units through actors to parquet files: what generate-triples and caption share.

Work goes by whole batches, always the same ones, and an actor keeps nothing from one to the next. The
driver alone writes, whole batches as they are done, each file in one step. So whatever is killed, the run
that goes on gives every row once, to the bit the one of an undisturbed run (but for the time it took);
the order of the files' rows follows from the time alone.

What this costs: all rows pass through one process (thousands a second: docs/scaling.md), and it holds
the units, about 2 KB each. A job of many million images is many jobs, by ``--images``.
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
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.progress import Progress
from jobs.pipeline.stage import Stage
from jobs.runner.part_files import PartFiles
from visvm import storage
from visvm.schemas import ERRORS


def write_units(
    units: pa.Table, folder: str | Path, schema: pa.Schema, *, stages: Sequence[Stage], config: PipelineConfig
) -> int:
    """Take the units that ``folder`` lacks through the stages; write good rows there, others to errors/.

    Return how many pieces of work were retried because the process that did them died.

    Raises:
        RuntimeError: more than ``max_error_share`` of the units failed.
    """
    check([stage.demand for stage in stages])
    errors = storage.join(storage.parent(str(folder)), "errors")
    storage.delete(errors)  # what failed in an earlier run is tried again
    good = PartFiles(folder, schema, seconds=config.commit_seconds)
    bad = PartFiles(errors, ERRORS, seconds=config.commit_seconds)
    batches = _batches(units, good.column("id"), config.batch_size)
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
    """The batches of a run without a break, less what is done: whole ones, and those whose rows failed."""
    whole = [units.slice(start, size) for start in range(0, units.num_rows, size)]
    left = [batch.filter(pc.invert(pc.is_in(batch["id"], done))) for batch in whole]
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
