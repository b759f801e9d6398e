"""The parts of benchmark-cluster: chaos, overhead, actors, memory."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import world
from jobs.benchmark_cluster import ClusterConfig
from jobs.loadtest import chaos
from jobs.loadtest.plain_loop import plain
from jobs.runner.run_folder import read_json
from visvm.config import load

Figures = dict[str, Any]


def measure(config: ClusterConfig) -> Figures:
    """Measure the parts that are asked for; the file keeps its figures of the others."""
    path = Path(config.json_file) if config.json_file else None
    figures = json.loads(path.read_text()) if path and path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for part in config.parts:
            measured = PARTS[part](config, Path(folder, part))
            made = {"date": str(date.today()), "cores": psutil.cpu_count(), "command": _command(part, config)}
            figures[part] = made | measured
            print(json.dumps({part: figures[part]}, indent=2), flush=True)
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _chaos(config: ClusterConfig, folder: Path) -> Figures:
    """Compare an undisturbed run with one under kills, on three nodes."""
    flags = {**_flags(config, folder, config.num_images), "min_actors": 2, "max_actors": 2}
    calm, wild = folder / "calm", folder / "chaos"
    with chaos.cluster(num_nodes=3, num_cpus=3) as nodes:
        storm = chaos.Chaos(nodes, num_units=config.num_images, seed=config.seed)
        undisturbed = _timed(lambda: _finish(nodes.address, **flags, out=calm))
        disturbed = _timed(lambda: storm.run(**flags, out=wild))
    return {
        **chaos.compare(calm, wild),
        "killed": storm.killed,
        "num_retried": read_json(str(wild / "metrics.json"))["num_retried"],
        "undisturbed": undisturbed,
        "disturbed": disturbed,
        "overhead_cpu": round(disturbed["cpu_seconds"] / undisturbed["cpu_seconds"] - 1, 3),
        "overhead_wall": round(disturbed["seconds"] / undisturbed["seconds"] - 1, 3),
    }


def _overhead(config: ClusterConfig, folder: Path) -> Figures:
    """Compare Ray with a plain loop."""
    flags = _flags(config, folder, config.num_timed)
    pairs = []
    with chaos.cluster(num_nodes=1, num_cpus=4) as nodes:
        for i in range(config.repeats):
            alone = plain(flags["images"], batch_size=config.batch_size)
            pairs.append((_steady(nodes.address, flags, folder / str(i)), alone))
    return {
        "num_images": config.num_timed,
        "ray": [one for one, _ in pairs],
        "plain": [one for _, one in pairs],
        "overhead_cpu": round(median(a["cpu_per_image"] / b["cpu_per_image"] for a, b in pairs) - 1, 3),
        "speed_wall": round(median(b["wall_per_image"] / a["wall_per_image"] for a, b in pairs), 3),
    }


def _actors(config: ClusterConfig, folder: Path) -> Figures:
    """Compare one policy actor with two."""
    flags = _flags(config, folder, config.num_timed)
    pairs = []
    with chaos.cluster(num_nodes=1, num_cpus=4) as nodes:
        for i in range(config.repeats):
            one = _steady(nodes.address, flags, folder / f"{i}-1")
            given = {**flags, "min_actors": 2, "max_actors": 2}
            pairs.append((one, _steady(nodes.address, given, folder / f"{i}-2")))
    return {
        "num_images": config.num_timed,
        "one": [one for one, _ in pairs],
        "two": [two for _, two in pairs],
        "speedup_wall": round(median(a["wall_per_image"] / b["wall_per_image"] for a, b in pairs), 3),
    }


def _memory(config: ClusterConfig, folder: Path) -> Figures:
    """Measure the peak memory of every kind of process, with short captions of many images."""
    flags = _flags(config, folder, 1000)
    files = sorted(Path(flags["images"]).rglob("*.png"))
    peaks = {}
    for num in (1000, config.num_most):
        rows = {"id": [f"{i:06d}" for i in range(num)], "uri": [str(files[i % 1000]) for i in range(num)]}
        pq.write_table(pa.table(rows), folder / f"{num}.parquet")
        given = {**flags, "images": folder / f"{num}.parquet", "max_new_tokens": 2, "batch_size": 64}
        with chaos.cluster(num_nodes=1, num_cpus=4) as nodes, chaos.Usage() as usage:
            _finish(nodes.address, **given, out=folder / str(num))
        peaks[str(num)] = dict(sorted(usage.peak_mib.items()))
    ratios = {
        kind: round(peaks[str(config.num_most)][kind] / most, 2) for kind, most in peaks["1000"].items()
    }
    return {"peak_mib": peaks, "ratio": ratios}


PARTS: dict[str, Callable[[ClusterConfig, Path], Figures]] = {
    "chaos": _chaos,
    "overhead": _overhead,
    "actors": _actors,
    "memory": _memory,
}


def _command(part: str, config: ClusterConfig) -> str:
    names = ("num_images", "num_timed", "num_most", "batch_size", "repeats", "seed")
    given = [f"--{name.replace('_', '-')} {getattr(config, name)}" for name in names]
    return " ".join(["visvm benchmark-cluster --parts", part, *given])


def _flags(config: ClusterConfig, folder: Path, num_images: int) -> dict[str, Any]:
    world.make(load(world.MakeConfig, out=str(folder / "world"), count=num_images))
    files = {"images": folder / "world" / "images", "policy": "world"}
    return files | {"batch_size": config.batch_size, "commit_seconds": 0}


def _finish(address: str, **flags: Any) -> None:
    assert chaos.command(address, **flags).wait() == 0, f"generate-triples failed: see {flags['out']}.log"


def _timed(do: Callable[[], None]) -> Figures:
    started = time.monotonic()
    with chaos.Usage() as usage:
        do()
        usage.sample()
    return {"seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(usage.cpu_seconds, 1)}


def _steady(address: str, flags: dict[str, Any], out: Path) -> Figures:
    """Return the seconds per image from the first file to the last, without start-up and loading."""
    marks: list[tuple[int, float, float]] = []
    with chaos.Usage() as usage:
        driver = chaos.command(address, **flags, out=out)
        while driver.poll() is None:
            num = chaos.num_rows(out / "rollouts")
            if num and (not marks or num > marks[-1][0]):
                usage.sample()
                marks.append((num, time.monotonic(), usage.cpu_seconds))
            time.sleep(0.02)
    assert driver.returncode == 0, f"generate-triples failed: see {out}.log"
    (first, wall, cpu), (last, wall_end, cpu_end) = marks[0], marks[-1]
    shutil.rmtree(out)
    return {
        "cpu_per_image": round((cpu_end - cpu) / (last - first), 5),
        "wall_per_image": round((wall_end - wall) / (last - first), 5),
    }
