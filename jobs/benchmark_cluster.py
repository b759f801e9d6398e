"""Measure what Ray costs and what it survives, on the embedded world: chaos, overhead, actors, memory.

    visvm benchmark-cluster --json docs/results/cluster.json           an hour on two cores
    visvm benchmark-cluster --parts overhead --num-images 200          minutes

chaos: three nodes; actors, a node and the driver of generate-triples are killed at seeded points, and the
rows compared with those of an undisturbed run. overhead: against a plain loop over the same objects.
actors: one and two of them. memory: the most of every process, for 1,000 and 20,000 images. Runs that are
compared take turns; CPU time is that of all processes, Ray's own included, from the first batch to the last.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from jobs.runner.command import run
from visvm.config import Config


class ClusterConfig(Config):
    """What is measured, and on how many images."""

    parts: tuple[Literal["chaos", "overhead", "actors", "memory"], ...] = Field(
        ("chaos", "overhead", "actors", "memory"), min_length=1, description="chaos, overhead, actors, memory"
    )
    num_images: int = Field(2000, ge=64, description="images of chaos")
    num_timed: int = Field(512, ge=64, description="images of overhead and actors")
    num_most: int = Field(20000, ge=1000, description="images of the larger run of memory")
    batch_size: int = Field(32, ge=1, description="images a batch")
    repeats: int = Field(3, ge=1, description="pairs of runs of overhead and actors")
    seed: int = Field(0, ge=0, description="of the kills")
    json_file: str | None = Field(None, alias="json", description="file for the figures")


def work(config: ClusterConfig) -> dict[str, Any]:
    """Measure the parts that are asked for; the file keeps its figures of the others."""
    from jobs.loadtest.cluster_bench import measure

    return measure(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(ClusterConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
