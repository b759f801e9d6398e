"""Kill a training process, as a machine that goes away does."""

from __future__ import annotations

import time
from pathlib import Path

import psutil


def kill_a_worker(out: Path, at: list[int]) -> None:
    """SIGKILL one training process of this session once there is a checkpoint to go on from.

    ``at`` gets the length of the curve then.
    """
    deadline, seen = time.monotonic() + 1200, set[str]()
    workers: list[psutil.Process] = []
    while not workers and time.monotonic() < deadline:  # found early: the kill must not come late
        own = psutil.Process().children(recursive=True)
        workers = [one for one in own if "RayTrainWorker" in title(one)]
        time.sleep(0.05)
    while len(seen) < 2 and time.monotonic() < deadline:  # an older one is deleted when the next is there
        seen |= {path.name for path in (out / "checkpoints").glob("checkpoint_*")}
        time.sleep(0.01)
    workers[0].kill()
    at.append(len((out / "curve.jsonl").read_text().splitlines()))


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""
