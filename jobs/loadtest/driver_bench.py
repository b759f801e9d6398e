"""What a job costs its driver: rows per second, bytes per row."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from actors.batch.generate import REWARDED
from actors.batch.rows import UNITS
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.execution import write_units
from jobs.pipeline.stage import Stage
from jobs.runtime import ray_setup
from visvm.config import load
from visvm.schemas import ROLLOUTS


class Echo:
    """A stage that takes no time: it answers every unit with the same responses."""

    def __init__(self) -> None:
        self.responses = _rollout(0)["responses"]

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [{**row, "content_hash": "0" * 64, "responses": self.responses} for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=REWARDED)


def measure(num_rows: int = 20_000, batch_size: int = 128) -> dict[str, Any]:
    """Measure what a job costs its driver, with a stage that takes no time, on a real Ray on this machine.

    CPU seconds of the driver's process (they depend little on the neighbours) and of the writing alone.
    """
    rows = [{**_rollout(i), "stage": None, "error": None} for i in range(num_rows)]
    units = pa.Table.from_pylist(rows, schema=UNITS)
    ray_setup.start()
    with tempfile.TemporaryDirectory() as out:
        config = load(PipelineConfig, images=".", out=out, batch_size=batch_size)
        started, wall = time.process_time(), time.monotonic()
        write_units(units, Path(out, "rollouts"), ROLLOUTS, stages=[Stage(Echo, {})], config=config)
        seconds, wall = time.process_time() - started, time.monotonic() - wall
    answered = Echo()(units.slice(0, batch_size))
    return {
        "num_rows": num_rows,
        "driver_rows_per_second": num_rows / seconds,
        "wall_rows_per_second": num_rows / wall,
        "row_bytes": answered.nbytes / batch_size,
        "unit_bytes": units.nbytes / num_rows,
        "cores": os.cpu_count(),
    }


def _rollout(i: int) -> dict[str, Any]:
    """Return a row as large as the paper's: five responses of eight sentences of 25 words."""
    sentences = [f" In image {i} there is {'a thing of some kind ' * 4}at place {k}." for k in range(8)]
    response = {
        "temperature": 0.5,
        "seed": 0,
        "text": "".join(sentences),
        "sentences": sentences,
        "rewards": [0.2 + 0.001 * k for k in range(8)],
        "num_tokens": 200,
        "finish_reason": "stop",
    }
    uri = f"/mnt/bucket/images/{i:012d}.jpg"  # there is none: only the listing looks for it
    row = {"id": f"{i}-0", "image_id": str(i), "uri": uri, "content_hash": "0" * 64, "prompt": "Describe it."}
    return {**row, "responses": [response] * 5}
