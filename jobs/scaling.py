"""Forecast how long many GPUs take for many images, and what limits them: docs/scaling.md as code.

visvm scaling                      the table of docs/scaling.md
visvm scaling --measure F.json     measure this machine's driver: rows a second, bytes a row
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobs.capacity.cluster_spec import GB
from jobs.runner.flags import Parser

HOUR = 3600


class Figures(NamedTuple):
    """The figures of the forecast; those marked so are measured (docs/results/scaling.json, cluster.json).

    By formula: seconds an image and GPU (cluster/README.md). Documented by AWS: GETs a second and prefix.
    Assumed: slowest batch against the mean, seconds until all GPUs work, and the driver's memory.
    """

    seconds_per_image: float = 0.67
    rows_per_second: float = 7_700  # of the driver's CPU time: measured
    row_bytes: float = 10_100  # of a rollout in the object store: measured
    unit_bytes: float = 2_200  # of the driver's memory for an image to do: measured
    image_bytes: float = 160_000  # COCO's mean
    gets_per_second: float = 5_500
    gets_per_image: int = 2  # by the policy and by the reward
    batch_size: int = 128
    straggler: float = 2.0
    start_seconds: float = 300
    driver_gb: float = 32


def forecast(
    num_gpus: int, num_images: int, *, shards: int = 1, figures: Figures | None = None
) -> dict[str, Any]:
    """Return the hours that each part alone would need, the part that limits, and what one job cannot hold.

    ``shards`` jobs share the images, each with a driver of its own; they read one bucket.
    """
    f = figures or Figures()
    gpu = num_images * f.seconds_per_image / num_gpus
    hours = {
        "gpus": gpu / HOUR,
        "driver": num_images / shards / f.rows_per_second / HOUR,
        "s3_gets": num_images * f.gets_per_image / f.gets_per_second / HOUR,
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
        "read_gb_per_second": num_images * f.gets_per_image * f.image_bytes / total / HOUR / GB,
        "object_store_mb_per_second": num_images * f.row_bytes / total / HOUR / 1e6,
        "driver_gb": num_images / shards * f.unit_bytes / GB,
        "shards_needed": shards_needed(num_gpus, num_images, f),
    }


def shards_needed(num_gpus: int, num_images: int, figures: Figures) -> int:
    """Return how many jobs must share the images, so that drivers are at most half busy and fit in memory."""
    rate = num_gpus / figures.seconds_per_image
    by_rate = rate / (figures.rows_per_second / 2)
    by_memory = num_images * figures.unit_bytes / (figures.driver_gb * GB)
    return max(1, -int(-max(by_rate, by_memory) // 1))


def table() -> str:
    """Return the table: 64 and 512 GPUs, 10^6 and 10^8 images, one job and as many as are needed."""
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
    """Print the table, or measure this machine; return the exit status."""
    parser = Parser(
        prog="visvm scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", type=Path, metavar="FILE", help="write what this machine's driver does")
    given = parser.parse_args(argv)
    if given.measure:
        from jobs.loadtest.driver_bench import measure

        given.measure.write_text(json.dumps(measure(), indent=2) + "\n")
        print(given.measure.read_text(), end="")
    else:
        print(table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
