"""What can be seen of a job: counters read back from Ray's own endpoint, and JSON logs."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray

from actors.batch.caption import CaptionWriter
from actors.batch.stage_metrics import StageMetrics, counts
from jobs import generate_triples
from jobs.runner import logs
from jobs.runner.part_files import read_rows
from tests.support.fakes import until
from visvm.reward import ClipScorer
from visvm.value import FutureScorer, ValueScorer


def exported() -> list[dict[tuple[str, str], float]]:
    """The visvm counters that the node exports, by (counter, stage), for each worker process."""
    port = ray.nodes()[0]["MetricsExportPort"]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    workers: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for name, tags, value in re.findall(r"^ray_visvm_(\w+?)(?:_total)?\{(.*)\} (\S+)$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="(.*?)"', tags))
        workers[labels["WorkerId"]][name, labels.get("stage", "")] = float(value)
    return list(workers.values())


@pytest.mark.ray
def test_rays_endpoint_shows_what_a_job_did(
    photos: Path, tiny_policy: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    """Each stage is one process here, so the counters of other tests' jobs are told apart."""
    flags = {"images": photos, "policy": tiny_policy, "reward": tiny_clip, "out": tmp_path / "out"}
    flags |= {"max-new-tokens": 20, "batch-size": 4}
    given = [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
    assert generate_triples.main(given) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    num_errors = sum(1 for _ in read_rows(tmp_path / "out" / "errors"))
    generate = {
        ("images", "generate"): metrics["num_rollouts"],
        ("tokens", "generate"): metrics["num_tokens"],
        ("errors", "generate"): num_errors,
    }
    reward = {("rewards", "reward"): metrics["num_sentences"]}
    assert num_errors == 3
    until(lambda: any(generate.items() <= counters.items() for counters in exported()))
    until(lambda: any(reward.items() <= counters.items() for counters in exported()))


def test_a_failed_row_is_counted_where_it_failed() -> None:
    before = pa.table({"error": pa.array([None, "read: gone"], pa.string())})
    after = pa.table({"error": ["decode: cut", "read: gone"], "num_generated_tokens": pa.array([None, None])})
    assert counts(before, after) == {"images": 0, "errors": 1, "tokens": 0}


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_look_ups_of_images_are_counted_once_each(is_wrapped: bool) -> None:
    """Also those of the value model inside a scorer of the reward and the learned future."""
    value = object.__new__(ValueScorer)
    value.hits, value.misses = 3, 1
    value.config = SimpleNamespace(predict="future")
    actor = object.__new__(CaptionWriter)
    actor.scorer = FutureScorer(object.__new__(ClipScorer), value) if is_wrapped else value
    batch = pa.table({"error": pa.array([None], pa.string())})
    metrics: Any = StageMetrics("captionwriter")
    hits, misses = Tally(), Tally()
    metrics._counters |= {"prefix_hits": hits, "prefix_misses": misses}
    metrics.add(batch, batch, actor)
    value.hits += 2
    metrics.add(batch, batch, actor)
    assert (hits.seen, misses.seen) == ([3, 2], [1])


class Tally:
    """What a counter was told."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def inc(self, num: float, *, tags: Any) -> None:
        self.seen.append(num)


@pytest.fixture
def root_logger() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level


def test_logs_are_json_with_ids(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root_logger: None
) -> None:
    monkeypatch.setenv(logs.LOG, "json")
    logs.setup()
    try:
        raise RuntimeError("no room")
    except RuntimeError:
        logging.getLogger("jobs.test").exception("failed after %d", 3)
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "jobs.test", "failed after 3")
    assert line["run"] == logs.RUN_ID and "no room" in line["error"]


def test_an_unknown_log_form_is_bad_usage() -> None:
    code = "import sys; from jobs.evaluate import main; sys.exit(main(sys.argv[1:]))"
    given = [sys.executable, "-c", code, "--captions", "a", "--coco", "b", "--out", "/nowhere/c"]
    done = subprocess.run(
        given, env={"VISVM_LOG": "yaml", "PATH": ""}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "VISVM_LOG = 'yaml': expected text or json" in done.stderr
