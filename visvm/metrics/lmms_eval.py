"""lmms-eval as a program: its environment, one run of a task, and what its results and samples say."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

FAILED = "LMMS_EVAL_REQUEST_FAILED"  # begins the text that stands for the answer to a failed request
MADE = "packages.txt"  # of an environment that is complete
logger = logging.getLogger(__name__)


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """Return the Python of an environment with ``packages``, which uv makes if it is not there.

    Raises:
        ValueError: there is no uv, or it cannot install them.
    """
    python, made = folder / "bin" / "python", folder / MADE
    if made.is_file() and made.read_text().split() == [*packages]:
        return python
    if (uv := shutil.which("uv")) is None:
        raise ValueError("lmms-eval's environment is made by uv, which is not on the PATH: pip install uv")
    logger.info("installing %s in %s", ", ".join(packages), folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for command in (
        [uv, "venv", "--quiet", "--python", version, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *packages],
    ):
        # At the root, for below a project's folder its constraints would hold.
        done = subprocess.run(command, cwd=folder.anchor, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(f"uv cannot make lmms-eval's environment: {done.stderr.strip()[-500:]}")
    made.write_text("\n".join(packages))
    return python


def run(python: Path, folder: Path, config: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    """Run lmms-eval in ``folder``, with its output in log.txt there; it ends with this process.

    ``config`` are the keys of its configuration file, ``variables`` more environment variables.

    Raises:
        RuntimeError: it failed; the end of its log is told.
    """
    log = folder / "log.txt"
    with _config_file(config) as file, log.open("w") as out:
        process = subprocess.Popen(
            [str(python), "-m", "lmms_eval", "--config", file],
            cwd=folder,
            env={**os.environ, **variables},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if status or not _newest(folder, "*_results.json"):
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise RuntimeError(
            f"lmms-eval ended with status {status}; {log} ends: " + " | ".join(lines[-3:])[-600:]
        )


@contextmanager
def _config_file(config: Mapping[str, Any]) -> Iterator[str]:
    """A file that this user alone can read: it may hold a key, which a command line would show."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(config), file)
        file.flush()
        yield file.name


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return a row for each metric of the tasks that were run in ``folder``; none if there are no results.

    Keys: task, metric, value, stderr (None if unknown), num_samples, num_failed (requests that failed),
    failure (the text of one), num_empty (answers).
    """
    results = _newest(folder, "*_results.json")
    if results is None:
        return []
    rows = []
    for task, metrics in json.loads(results.read_text())["results"].items():
        counts = _count(_newest(folder, f"*_samples_{task}.jsonl"))
        for key, value in metrics.items():
            metric, _, which = key.partition(",")
            if not which or "_stderr" in metric or not isinstance(value, int | float):
                continue
            # By bootstrap, or by the central limit theorem, where either was computed.
            errors = [metrics.get(f"{metric}_stderr{kind},{which}") for kind in ("", "_clt")]
            stderr = next((error for error in errors if isinstance(error, int | float)), None)
            rows.append({"task": task, "metric": metric, "value": value, "stderr": stderr, **counts})
    return rows


def _count(samples: Path | None) -> dict[str, Any]:
    """Count the samples, those without an answer, and those whose answer tells that the request failed."""
    counts: dict[str, Any] = {"num_samples": 0, "num_failed": 0, "failure": None, "num_empty": 0}
    if samples is None:
        return counts
    with samples.open() as lines:
        for line in lines:
            sample = json.loads(line)  # "resps" is left out where filters change nothing
            answers = [*_texts(sample.get("resps")), *_texts(sample.get("filtered_resps"))]
            failed = [text for text in answers if FAILED in text]
            counts["num_samples"] += 1
            counts["num_failed"] += bool(failed)
            counts["num_empty"] += not any(text.strip() for text in answers)
            counts["failure"] = counts["failure"] or (failed[0][:300] if failed else None)
    return counts


def _texts(answers: Any) -> Iterator[str]:
    """Yield the texts of nested lists."""
    if isinstance(answers, str):
        yield answers
    elif isinstance(answers, list):
        for one in answers:
            yield from _texts(one)


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.rglob(pattern), key=lambda path: path.stat().st_mtime_ns, default=None)
