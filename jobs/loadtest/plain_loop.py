"""generate-triples as a plain loop in one process: the baseline that Ray is measured against."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from actors.batch.generate import Generate, Reward
from jobs.generate_triples import GenerateConfig
from jobs.pipeline.units import make_units
from jobs.runtime import ray_setup
from visvm.config import load
from visvm.models import check_policy, check_reward

ON_CPU = {"device": "cpu", "dtype": "float32"}


def plain(images: Path, *, batch_size: int) -> dict[str, Any]:
    """Return the loop's seconds per image, measured in a process with one thread, as an actor has."""
    words = [sys.executable, "-m", "jobs.loadtest.plain_loop", str(images), str(batch_size)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ray_setup.ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    cpu, wall = map(float, done.stdout.split()[-2:])
    return {"cpu_per_image": cpu, "wall_per_image": wall}


def loop(images: str, batch_size: int) -> tuple[float, float]:
    """Return (CPU seconds, seconds) per image after the first batch, with the job's own classes."""
    config = load(GenerateConfig, images=images, out="unused", policy="world", batch_size=batch_size)
    policy = {"name": check_policy("world"), **ON_CPU, **config.policy_options}
    generate = Generate(policy, temperatures=config.temperatures, seed=config.seed)
    reward = Reward({"name": check_reward("world", policy="world"), **ON_CPU})
    units = make_units(config)
    reward(generate(units.slice(0, batch_size)))
    started, started_cpu = time.perf_counter(), time.process_time()
    for start in range(batch_size, units.num_rows, batch_size):
        reward(generate(units.slice(start, batch_size)))
    num = units.num_rows - batch_size
    return (time.process_time() - started_cpu) / num, (time.perf_counter() - started) / num


if __name__ == "__main__":
    print(*(round(seconds, 5) for seconds in loop(sys.argv[1], int(sys.argv[2]))))
