"""A small cluster on this machine: what its processes use, and how a job survives their being killed."""

from __future__ import annotations

import logging
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from jobs.runner.part_files import parts
from jobs.runtime import ray_setup

VICTIMS = ("Generate", "Generate", "Generate", "Reward", "node", "driver")
KEYS = ("id", "image_id", "uri", "prompt", "response", "step")
logger = logging.getLogger(__name__)


class Usage:
    """A context that samples this process's descendants: total CPU seconds, peak memory by kind."""

    def __init__(self, *, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self.peak_mib: dict[str, float] = {}
        self._cpu: dict[tuple[int, float], float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Usage:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()

    @property
    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes so far, including those that have ended."""
        return sum(self._cpu.values())

    def sample(self) -> None:
        """Sample every process now."""
        for process in psutil.Process().children(recursive=True):
            try:
                self._note(process)
            except psutil.Error:  # it has ended meanwhile
                continue

    def _note(self, process: psutil.Process) -> None:
        times, memory = process.cpu_times(), process.memory_info()
        self._cpu[process.pid, process.create_time()] = times.user + times.system
        kind, size = kind_of(process), memory.rss - memory.shared
        if kind == "raylet":  # the object store is the memory it shares
            self._most("object store", memory.shared)
        self._most(kind, size)

    def _most(self, kind: str, size: int) -> None:
        self.peak_mib[kind] = max(self.peak_mib.get(kind, 0.0), round(size / 2**20, 1))

    def _watch(self) -> None:
        while not self._done.wait(self.seconds):
            self.sample()


def kind_of(process: psutil.Process) -> str:
    """Return what a process of Ray is: the name of a stage's actor, "driver", "raylet", "gcs" or "other"."""
    title = " ".join(process.cmdline())
    if actor := re.search(r"ray::MapWorker\(MapBatches\((\w+)\)\)", title):
        return actor[1]
    names = {"jobs.generate_triples": "driver", "raylet/raylet": "raylet", "gcs_server": "gcs"}
    return next((kind for name, kind in names.items() if name in title), "other")


@contextmanager
def cluster(*, num_nodes: int, num_cpus: int) -> Iterator[Cluster]:
    """Run a head and further nodes on this machine, each with ``num_cpus`` logical CPUs."""
    ray_setup.prepare()
    options: dict[str, Any] = {"num_cpus": num_cpus, "object_store_memory": 512 * 2**20}
    nodes = Cluster(initialize_head=True, head_node_args=options)
    try:
        for _ in range(num_nodes - 1):
            nodes.add_node(**options)
        yield nodes
    finally:
        nodes.shutdown()


def command(address: str, **flags: Any) -> subprocess.Popen[bytes]:
    """Start generate-triples on the cluster at ``address``; its output goes to OUT.log."""
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), str(value))]
    words = [sys.executable, "-m", "jobs.generate_triples", "--shared-paths", *words]
    env = {**os.environ, "RAY_ADDRESS": address}
    with Path(f"{flags['out']}.log").open("a") as log:
        return subprocess.Popen(words, cwd=ray_setup.ROOT, env=env, stdout=log, stderr=log)


class Chaos:
    """Kills processes at seeded points of a job's progress; a killed driver is started again."""

    def __init__(self, nodes: Cluster, *, num_units: int, seed: int) -> None:
        rng = random.Random(seed)
        points = sorted(rng.uniform(0.05, 0.85) for _ in VICTIMS)
        self.plan = [(p, v) for p, v in zip(points, rng.sample(VICTIMS, len(VICTIMS)), strict=True)]
        self.nodes, self.num_units, self.rng = nodes, num_units, rng
        self.killed: list[dict[str, Any]] = []

    def run(self, **flags: Any) -> None:
        """Run the job to its end, with the kills."""
        driver = command(self.nodes.address, **flags)
        while driver.poll() is None:
            time.sleep(0.1)
            if self.plan and num_rows(Path(flags["out"], "rollouts")) >= self.plan[0][0] * self.num_units:
                driver = self._kill(driver, flags)
        assert driver.returncode == 0, f"generate-triples failed: see {flags['out']}.log"
        assert not self.plan, f"not killed in time: {self.plan}"

    def _kill(self, driver: subprocess.Popen[bytes], flags: dict[str, Any]) -> subprocess.Popen[bytes]:
        victim = self.plan[0][1]
        if victim == "driver":
            driver.kill()
            driver.wait()
            driver = command(self.nodes.address, **flags)
        elif victim == "node":
            self.nodes.remove_node(list(self.nodes.worker_nodes)[-1], allow_graceful=False)
        elif not self._kill_actor(victim):
            return driver  # no such actor is at work yet: try again later
        point, _ = self.plan.pop(0)
        self.killed.append({"what": victim, "at_share": round(point, 3)})
        logger.info("killed %s after %.0f %% of the rows", victim, 100 * point)
        return driver

    def _kill_actor(self, kind: str) -> bool:
        """Send SIGKILL to an actor of a stage that is at work; return whether there was one."""
        below = psutil.Process().children(recursive=True)
        found = [one for one in below if one.is_running() and is_at_work(one, kind)]
        if found:
            self.rng.choice(sorted(found, key=lambda one: one.pid)).kill()
        return bool(found)


def is_at_work(process: psutil.Process, kind: str) -> bool:
    """Return whether a process is an actor of that stage and has loaded its model."""
    try:
        return kind_of(process) == kind and "__init__" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def num_rows(folder: Path) -> int:
    """Return the number of rows in the finished files of a folder."""
    return sum(pq.read_metadata(path).num_rows for path in parts(folder))


def rows_of(folder: Path) -> pa.Table:
    """Return all rows of a folder, sorted."""
    table = pa.concat_tables([pq.read_table(path) for path in parts(folder)]).combine_chunks()
    return table.sort_by([(key, "ascending") for key in KEYS if key in table.column_names])


def compare(calm: Path, wild: Path) -> dict[str, Any]:
    """Compare the rows of both run folders: what the disturbed run lost, doubled and changed."""
    before, after = rows_of(calm / "rollouts"), rows_of(wild / "rollouts")
    counts = Counter(after["id"].to_pylist())
    lost = set(before["id"].to_pylist()) - counts.keys()
    return {
        "num_rows": before.num_rows,
        "num_lost": len(lost),
        "num_doubled": sum(counts.values()) - len(counts),
        "rollouts_equal": before.equals(after),
        "triples_equal": rows_of(calm / "triples").equals(rows_of(wild / "triples")),
    }
