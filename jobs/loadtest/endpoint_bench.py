"""The parts of benchmark-serve: clients, replicas that come and go, replicas that are killed."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from itertools import cycle, takewhile
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray import serve
from ray.serve.schema import ReplicaState

import visvm
from jobs.benchmark_serve import BenchmarkServeConfig
from jobs.loadtest.load_generator import ChatCall, Outcome, closed_loop, summary, when
from jobs.runtime import ray_setup
from jobs.serve import NAME, ServeConfig, start
from visvm.config import load

SCALING_CLIENTS, KILL_CLIENTS = 16, 8
SOON = 240.0  # seconds for a replica to come, to go or to be replaced


class Bench:
    """The application under test, and the requests to it."""

    def __init__(self, config: BenchmarkServeConfig) -> None:
        self.config, self.url = config, f"http://127.0.0.1:{config.port}"
        self.images = images(config.num_images)
        self.expected: dict[str, str] = {}

    def deploy(self, **scales: Any) -> None:
        """Start the application, or change its scales."""
        start(load(ServeConfig, port=self.config.port, value=self.config.value, **scales))

    def calls(self, count: int, *, stream: Callable[[int], bool] = lambda i: False) -> list[ChatCall]:
        """Return ``count`` requests that go through the images in turn."""
        chosen = [(i, i % len(self.images)) for i in range(count)]
        return [ChatCall(str(place), self.images[place], stream=stream(i)) for i, place in chosen]

    async def alone(self) -> None:
        """Ask for each image once with nothing else in flight; later answers must be the same."""
        outcomes = await closed_loop(self.url, self.calls(len(self.images)), clients=1)
        self.expected = {one.call.key: one.text for one in outcomes if one.kind == "ok"}
        if len(self.expected) < len(self.images):
            raise RuntimeError(f"of {len(self.images)} captions only {len(self.expected)} were written")

    async def round(self, calls: Iterable[ChatCall], clients: int) -> tuple[list[Outcome], float]:
        """Send the calls; return their outcomes and the seconds they took together."""
        started = time.perf_counter()
        outcomes = await closed_loop(self.url, calls, clients=clients, expected=self.expected)
        return outcomes, time.perf_counter() - started


def is_even(number: int) -> bool:
    """Return whether a number is even."""
    return number % 2 == 0


def images(count: int) -> list[bytes]:
    """Return PNG files of the first images of the world's test split."""
    from visvm.world.rendering import image
    from visvm.world.scenes import layout

    files = []
    for index in range(count):
        stream = io.BytesIO()
        image(layout("test", index)).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


async def measure_clients(bench: Bench) -> dict[str, Any]:
    """Measure throughput and latency by number of clients; ratios to the first are medians over rounds."""
    bench.deploy()
    await bench.alone()
    config = bench.config
    rounds: dict[int, list[tuple[list[Outcome], float]]] = {n: [] for n in config.clients}
    for _ in range(config.repeats):
        for n in config.clients:
            rounds[n].append(await bench.round(bench.calls(config.num_requests), n))
    rates = {n: [len(some) / seconds for some, seconds in each] for n, each in rounds.items()}
    first = rates[config.clients[0]]
    result = {}
    for n, each in rounds.items():
        outcomes = [one for some, _ in each for one in some]
        ratio = median(rate / alone for rate, alone in zip(rates[n], first, strict=True))
        result[str(n)] = summary(outcomes, sum(s for _, s in each)) | {"throughput_ratio": round(ratio, 2)}
    return result


async def measure_engine(bench: Bench) -> dict[str, Any]:
    """Measure one client's latency against the engine's own time in this process, in alternating rounds.

    With the value model in the policy's replica, and in one of its own.
    """
    captioner = visvm.load(policy="world", value=bench.config.value or "world")
    result = {}
    for name, together in (("together", True), ("apart", False)):
        bench.deploy(colocate_value=together)
        await bench.alone()
        engine, endpoint, wrong = [], [], 0
        for _ in range(bench.config.repeats):
            engine.append(await asyncio.to_thread(median_seconds, captioner, bench.images))
            outcomes, _ = await bench.round(bench.calls(bench.config.num_requests), 1)
            wrong += sum(one.kind != "ok" for one in outcomes)
            endpoint.append(median(one.seconds for one in outcomes))
        ratios = [ours / alone for ours, alone in zip(endpoint, engine, strict=True)]
        result[name] = {
            "engine_p50_seconds": [round(one, 4) for one in engine],
            "endpoint_p50_seconds": [round(one, 4) for one in endpoint],
            "ratios": [round(one, 2) for one in ratios],
            "median_ratio": round(median(ratios), 2),
            "not_ok": wrong,
        }
    return result


def median_seconds(captioner: visvm.Captioner, files: Iterable[bytes]) -> float:
    """Return the median seconds of a guided caption in this process."""
    seconds = []
    for data in files:
        started = time.perf_counter()
        captioner.caption(data, method="visvm")
        seconds.append(time.perf_counter() - started)
    return median(seconds)


async def measure_scaling(bench: Bench) -> dict[str, Any]:
    """Measure how a second policy replica comes with load and goes without it, and the throughput of both."""
    scale = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 4, "num_cpus": 1}
    bench.deploy(policy_scale=scale | {"upscale_delay_s": 5, "downscale_delay_s": 10})
    await bench.alone()
    is_enough = False
    endless = takewhile(lambda _: not is_enough, cycle(bench.calls(len(bench.images), stream=is_even)))
    started = time.perf_counter()
    load_ = asyncio.create_task(bench.round(endless, SCALING_CLIENTS))
    seconds_up = await when(lambda: num_running("Policy") == 2, seconds=SOON)
    await asyncio.sleep(max(seconds_up, 20))  # as long with two
    is_enough = True
    outcomes, seconds = await load_
    seconds_down = await when(lambda: num_running("Policy") == 1, seconds=SOON)
    after, _ = await bench.round(bench.calls(len(bench.images)), 1)
    early = [one.ended < started + seconds_up for one in outcomes]
    return summary([*outcomes, *after], seconds) | {
        "clients": SCALING_CLIENTS,
        "seconds_to_2_replicas": round(seconds_up, 1),
        "seconds_back_to_1_replica": round(seconds_down, 1),
        "requests_per_second_until_2": round(sum(early) / seconds_up, 3),
        "requests_per_second_with_2": round(early.count(False) / (seconds - seconds_up), 3),
    }


async def measure_kills(bench: Bench) -> dict[str, Any]:
    """Kill one of two replicas of each kind under load; every other request is streamed."""
    two = {"min_replicas": 2, "max_replicas": 2}
    small = two | {"num_cpus": 0.25}
    bench.deploy(policy_scale=two | {"num_cpus": 1}, value_scale=small, reward_scale=small)
    await bench.alone()
    result = {}
    for name in ("Value", "Policy"):
        calls = bench.calls(4 * bench.config.num_requests, stream=is_even)
        load_ = asyncio.create_task(bench.round(calls, KILL_CLIENTS))
        await asyncio.sleep(5)
        pid = await asyncio.to_thread(kill_replica, name)
        outcomes, seconds = await load_
        replaced = await when(partial(_is_replaced, name, pid), seconds=SOON)
        plain, streamed = ([o for o in outcomes if o.call.stream is s] for s in (False, True))
        result[name] = {
            "clients": KILL_CLIENTS,
            "plain": summary(plain, seconds),
            "streamed": summary(streamed, seconds),
            "seconds_to_replace_after_load": round(replaced, 1),
        }
    return result


PARTS = {
    "clients": measure_clients,
    "engine": measure_engine,
    "scaling": measure_scaling,
    "kills": measure_kills,
}


def num_running(deployment: str) -> int:
    """Return how many replicas of a deployment take requests."""
    states = serve.status().applications[NAME].deployments[deployment].replica_states
    return states.get(ReplicaState.RUNNING, 0)


def replica_pids(deployment: str) -> list[int]:
    """Return the process ids of a deployment's replicas."""
    prefix = f"SERVE_REPLICA::{NAME}#{deployment}#"
    names = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
    actors = [ray.get_actor(name, namespace="serve") for name in names if name.startswith(prefix)]
    return ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in actors])


def kill_replica(deployment: str) -> int:
    """Kill one replica with SIGKILL; return its process id."""
    pid = replica_pids(deployment)[0]
    os.kill(pid, signal.SIGKILL)
    return pid


def _is_replaced(deployment: str, pid: int) -> bool:
    return num_running(deployment) == 2 and pid not in replica_pids(deployment)


def measure(config: BenchmarkServeConfig) -> dict[str, Any]:
    """Measure the parts, one after another; print and write the figures."""
    ray_setup.start()
    bench = Bench(config)
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "num_cpus": os.cpu_count(),
        "config": config.model_dump(mode="json", exclude={"json_file"}),
    }
    try:
        for part in config.parts:
            result[part] = asyncio.run(PARTS[part](bench))
            print(json.dumps({part: result[part]}, indent=2), flush=True)
            if config.json_file:
                Path(config.json_file).write_text(json.dumps(result, indent=2) + "\n")
    finally:
        serve.shutdown()
    return result
