"""What so many GPUs would do with so many images, and what holds them up: docs/scaling.md as code.

python -m jobs.scaling                      the table of docs/scaling.md
python -m jobs.scaling --measure F.json     measure this machine's driver: rows a second, bytes a row
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from actors.batch.generate import REWARDED
from actors.batch.rows import UNITS
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.execution import write_units
from jobs.pipeline.stage import Stage
from jobs.runtime import ray_setup
from visvm.config import load
from visvm.records import ROLLOUTS

HOUR = 3600
GB = 1e9


class Figures(NamedTuple):
    """What the forecast is made from: measured where it says so (docs/results/scaling.json, cluster.json).

    By formula: seconds an image and GPU (cluster/README.md). Documented by AWS: GETs a second and prefix.
    Assumed: slowest batch against the mean, seconds until all GPUs work, and the driver's memory.
    """

    seconds_per_image: float = 0.67
    rows_per_second: float = 7_700  # of the driver's CPU time: measured
    row_bytes: float = 10_100  # of a rollout in the object store: measured
    unit_bytes: float = 2_200  # of the driver's memory for an image to do: measured
    image_bytes: float = 160_000  # COCO's mean
    gets_per_second: float = 5_500
    batch_size: int = 128
    straggler: float = 2.0
    start_seconds: float = 300
    driver_gb: float = 32


def forecast(
    num_gpus: int, num_images: int, *, shards: int = 1, figures: Figures | None = None
) -> dict[str, Any]:
    """Hours that each part needs, were it alone; the part that needs most; and what one job cannot hold.

    ``shards`` jobs share the images, each with a driver of its own; they read one bucket.
    """
    f = figures or Figures()
    gpu = num_images * f.seconds_per_image / num_gpus
    hours = {
        "gpus": gpu / HOUR,
        "driver": num_images / shards / f.rows_per_second / HOUR,
        "s3_gets": num_images / f.gets_per_second / HOUR,
    }
    # At the end every GPU waits for the slowest last batch.
    tail = f.straggler * f.batch_size * f.seconds_per_image
    limit = max(hours, key=lambda name: hours[name])
    total = hours[limit] + (tail + f.start_seconds) / HOUR
    return {
        "hours": hours,
        "limit": limit,
        "tail_hours": tail / HOUR,
        "total_hours": total,
        "gpu_use": hours["gpus"] / total,
        "images_per_second": num_images / total / HOUR,
        "read_gb_per_second": num_images * f.image_bytes / total / HOUR / GB,
        "object_store_mb_per_second": num_images * f.row_bytes / total / HOUR / 1e6,
        "driver_gb": num_images / shards * f.unit_bytes / GB,
        "shards_needed": shards_needed(num_gpus, num_images, f),
    }


def shards_needed(num_gpus: int, num_images: int, figures: Figures) -> int:
    """Jobs to share the images: so many that drivers are at most half busy, and hold their units."""
    rate = num_gpus / figures.seconds_per_image
    by_rate = rate / (figures.rows_per_second / 2)
    by_memory = num_images * figures.unit_bytes / (figures.driver_gb * GB)
    return max(1, -int(-max(by_rate, by_memory) // 1))


class Echo:
    """A stage that takes no time: it answers every unit with the same responses."""

    def __init__(self) -> None:
        self.responses = _rollout(0)["responses"]

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [{**row, "content_hash": "0" * 64, "responses": self.responses} for row in batch.to_pylist()]
        return pa.Table.from_pylist(rows, schema=REWARDED)


def measure(num_rows: int = 20_000, batch_size: int = 128) -> dict[str, Any]:
    """What a job costs its driver, with a stage that takes no time on a real Ray on this machine.

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
    """A row as large as the paper's: five responses of eight sentences of 25 words."""
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
    uri = f"s3://bucket/images/{i:012d}.jpg"
    row = {"id": f"{i}-0", "image_id": str(i), "uri": uri, "content_hash": "0" * 64, "prompt": "Describe it."}
    return {**row, "responses": [response] * 5}


def table() -> str:
    """64 and 512 GPUs, a million and a hundred million images: one job, and as many as are needed."""
    head = "| GPUs | images | jobs | GPUs h | driver h | S3 h | limit | total h | GPU use | GB/s read |"
    lines = [head, "|" + "---|" * 10]
    for num_gpus in (64, 512):
        for num_images in (10**6, 10**8):
            for shards in dict.fromkeys((1, forecast(num_gpus, num_images)["shards_needed"])):
                made = forecast(num_gpus, num_images, shards=shards)
                hours = " | ".join(f"{made['hours'][name]:.3g}" for name in ("gpus", "driver", "s3_gets"))
                total = f"{made['limit']} | {made['total_hours']:.3g} | {made['gpu_use']:.0%}"
                total += f" | {made['read_gb_per_second']:.2g}"
                lines.append(f"| {num_gpus} | {num_images:,} | {shards} | {hours} | {total} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=Path, metavar="FILE", help="write what this machine's driver does")
    given = parser.parse_args(argv)
    if given.measure:
        given.measure.write_text(json.dumps(measure(), indent=2) + "\n")
        print(given.measure.read_text(), end="")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
