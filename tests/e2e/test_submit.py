"""The documented commands as they stand: a fresh clone submits every job to a head, all files in S3.

A worker of the training is killed, S3 is away for a minute, and a job is stopped and goes on.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from jobs.runner.part_files import parts, read_rows
from jobs.runner.run_folder import is_complete, read_json
from tests.conftest import S3Server, free_port
from tests.support.paths import ROOT
from visvm import storage

BIN = Path(sys.executable).parent
PORTS = (
    *("port", "dashboard-port", "object-manager-port", "node-manager-port", "ray-client-server-port"),
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port"),
    "metrics-export-port",
)
NUM_IMAGES = 48
OUTAGE_SECONDS = 60
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


class Head:
    """A head with a dashboard, and a shell in a fresh clone that knows it."""

    def __init__(self, clone: Path, log: Path) -> None:
        self.clone = clone
        # Ray's sockets lie below its folder, and paths of sockets are short.
        self.temp = tempfile.TemporaryDirectory(prefix="head-", dir="/tmp", ignore_cleanup_errors=True)
        self.ports = {name: free_port() for name in PORTS}
        flags = [f"--{name}={port}" for name, port in self.ports.items()]
        flags += ["--min-worker-port=0", "--max-worker-port=0", "--num-cpus=8"]
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "RAY_AUTH_MODE": "disabled",
            # On a busy machine Ray gives up on its own processes, and with them on the head.
            "RAY_agent_register_timeout_ms": "120000",
            "RAY_raylet_start_wait_time_s": "60",
            "RAY_health_check_failure_threshold": "60",
            "VISVM_LOCK_SECONDS": "100",  # more than S3 will be away
        }
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [BIN / "ray", "start", "--head", "--block", f"--temp-dir={self.temp.name}", *flags],
                env=self.env,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.env["RAY_ADDRESS"] = f"http://127.0.0.1:{self.ports['dashboard-port']}"

    @property
    def is_up(self) -> bool:
        try:
            return urlopen(f"{self.env['RAY_ADDRESS']}/api/version", timeout=5).status == 200
        except OSError:
            return False

    def shell(self, command: str) -> subprocess.Popen[str]:
        """A command that runs in the clone; its output is kept."""
        return subprocess.Popen(
            ["bash", "-euc", command],
            cwd=self.clone,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """The exit status of a command, and its output."""
        process = self.shell(command)
        output, _ = process.communicate()
        return process.returncode, output

    def stop(self) -> None:
        """SIGTERM to the head, whose processes it ends."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        self.process.wait(timeout=60)
        for child in psutil.wait_procs(children, timeout=10)[1]:
            child.kill()
        self.temp.cleanup()


def wait(until: Callable[[], object], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    if subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")]).returncode:
        pytest.skip("not a git checkout")
    for attempt in range(3):  # a busy machine may miss Ray's own deadlines
        head = Head(folder / "clone", folder / f"head-{attempt}.log")
        wait(lambda head=head: head.is_up or head.process.poll() is not None)
        if head.is_up:
            break
    try:
        wait(lambda: head.run("ray job submit -- true")[0] == 0)  # up, and with an agent that starts jobs
        yield head
    finally:
        head.stop()


def documented(out: str) -> tuple[str, list[str]]:
    """The setting up and the jobs of docs/cluster.md, for a folder of our own and fewer images."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    block = re.search(r"## Submit a job.*?```sh\n(.*?)```", text, re.DOTALL)
    assert block
    lines = block[1].replace("s3://my-bucket/first", out).replace("--count 500", f"--count {NUM_IMAGES}")
    setup = [line for line in lines.splitlines() if not line.startswith(("job ", "export RAY_ADDRESS"))]
    return "\n".join(setup), [line for line in lines.splitlines() if line.startswith("job ")]


def test_the_documented_loop(head: Head, s3: str) -> None:
    """Every command succeeds, also the training whose worker is killed after its first checkpoint."""
    setup, jobs = documented(f"{s3}/first")
    for job in jobs:
        process = head.shell(f"{setup}\n{job}")
        if "train_value" in job:
            kill_one_worker(head, process, f"{s3}/first/value")
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "succeeded" in output
    assert len(list(read_rows(f"{s3}/first/captions/captions"))) == NUM_IMAGES
    for name in ("images", "triples", "value", "captions", "sft", "table"):
        assert is_complete(f"{s3}/first/{name}")
    rows = read_json(f"{s3}/first/table/metrics.json")["rows"]
    assert [(row["method"], row["num_images"]) for row in rows] == [("visvm", NUM_IMAGES)]
    assert "recall" in output, "the table is in the log"


def has_checkpoint(folder: str) -> bool:
    names = [file.name for file in storage.walk(folder)]
    return any(name.startswith("checkpoint_") and "/" in name for name in names)


def kill_one_worker(head: Head, process: subprocess.Popen[str], out: str) -> None:
    """Once there is something to go on from."""
    wait(lambda: has_checkpoint(f"{out}/checkpoints") or process.poll() is not None)
    below = psutil.Process(head.process.pid).children(recursive=True)
    workers = [one for one in below if "TrainWorker" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)


def test_a_bad_command_fails_with_its_reason(head: Head, s3: str) -> None:
    setup, _ = documented(f"{s3}/first")
    status, output = head.run(f"{setup}\njob jobs.generate_triples --images $OUT/none --out $OUT/triples")
    assert status == 1 and f"images = '{s3}/first/none': no such file or folder" in output


def test_a_stopped_job_goes_on_and_an_s3_that_is_away_is_waited_for(
    head: Head, s3: str, s3_server: S3Server
) -> None:
    setup, _ = documented(s3)
    make = "python -m jobs.world make --split train --count 96 --out $OUT/images > log"
    work = (
        "-- python -m jobs.generate_triples --images $OUT/images --batch-size 8 --commit-seconds 0"
        " --out $OUT/triples"
    )
    submit = f"{setup}\nray job submit --working-dir ."
    assert head.run(f"{setup}\n{make}")[0] == 0
    assert head.run(f"{submit} --submission-id stopped --no-wait {work}")[0] == 0
    wait(lambda: parts(f"{s3}/triples/rollouts"))
    assert head.run("ray job stop stopped")[0] == 0
    assert "stopped" in head.run("ray job status stopped")[1].lower()
    wait(lambda: not storage.exists(f"{s3}/triples/.lock"), seconds=60)
    done = parts(f"{s3}/triples/rollouts")
    assert 1 <= len(done) < 12

    process = head.shell(f"{submit} {work}")
    wait(lambda: len(parts(f"{s3}/triples/rollouts")) > len(done) or process.poll() is not None)
    s3_server.stop()
    time.sleep(OUTAGE_SECONDS)
    s3_server.start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"resuming after {8 * len(done)} of 96" in output and "trying again" in output
    ids = [row["id"] for row in read_rows(f"{s3}/triples/rollouts")]
    assert len(ids) == len(set(ids)) == 96
    assert list(read_rows(f"{s3}/triples/errors")) == []
