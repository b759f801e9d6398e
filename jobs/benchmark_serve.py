"""Put the endpoint under load: more clients, its price over the engine, replicas that come, go or are killed.

    visvm benchmark-serve --json serve.json            (the embedded world, loopback only)
    visvm benchmark-serve --parts clients --num-requests 32

Starts the application on a Ray of its own. Every caption is compared with the one that the same image
got when it was asked for alone. Rates of a machine that others use too are worth little; their ratios,
each within one round, are what is told.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from jobs.runner.command import run
from visvm.config import Config


class BenchmarkServeConfig(Config):
    """What is measured, with how many clients and requests."""

    parts: tuple[Literal["clients", "engine", "scaling", "kills"], ...] = Field(
        ("clients", "engine", "scaling", "kills"), min_length=1, description="clients, engine, scaling, kills"
    )
    clients: tuple[int, ...] = Field((1, 4, 16), min_length=1, description="clients at a time")
    num_requests: int = Field(32, ge=1, description="requests of one round")
    repeats: int = Field(3, ge=1, description="rounds of each number of clients, in turn")
    num_images: int = Field(16, ge=1, description="images of the world that are described")
    port: int = Field(8123, ge=1, lt=65536, description="port to listen on, at 127.0.0.1")
    value: str | None = Field(None, description="value model, if not the world's")
    json_file: str | None = Field(None, alias="json", description="file for the figures")


def work(config: BenchmarkServeConfig) -> dict[str, Any]:
    """Measure the parts, one after another; print and write the figures."""
    from jobs.loadtest.endpoint_bench import measure

    return measure(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(BenchmarkServeConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
