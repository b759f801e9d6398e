"""How a command starts and ends: flags, run folder, exit status, and what it says."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from jobs.runner.command import parse, run
from tests.support.fakes import until
from tests.support.paths import ROOT
from visvm.config import Config


class Settings(Config):
    """What the job of these tests takes."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"workers"})

    out: str
    max_images: int = 1
    names: tuple[str, ...] = ()
    workers: int = 1


def nothing(config: Settings) -> dict[str, Any]:
    return {"size": config.max_images}


def main(work: Any, folder: Path, *flags: str) -> int:
    return run(Settings, work, ["--out", str(folder), *flags], doc="A job.")


def test_flags_of_earlier_versions_are_taken_and_values_are_left_alone() -> None:
    config = parse(Settings, ["--max-pictures", "3", "--out=pictures", "--names", "max_pictures"], doc="")
    assert config == Settings(out="pictures", max_images=3, names=("max_pictures",))


def test_a_run_folder_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    """Its config has keys under their former names, and lacks those that came later."""
    old = {"out": str(tmp_path), "max_pictures": 2, "workers": 4}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    assert main(nothing, tmp_path, "--max-images", "2") == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["max_images"] == 2


def test_another_config_is_told_key_by_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(nothing, tmp_path, "--max-images", "2", "--names", "a") == 0
    assert main(nothing, tmp_path, "--max-images", "3", "--workers", "9") == 2
    error = capsys.readouterr().err
    assert "max_images was 2, is 3; names was ['a'], is []" in error
    assert "workers" not in error and error.count("\n") == 1


def test_a_damaged_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("- 1\n")
    assert main(nothing, tmp_path) == 2
    assert "config.yaml is damaged" in capsys.readouterr().err


def fail(error: BaseException) -> Any:
    def work(config: Settings) -> dict[str, Any]:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("max_images = 9: too many"), 2, "error: max_images = 9: too many\n"),
        (OSError(28, "No space left on device"), 1, "No space left on device: make room, then run the same"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume"),
    ],
)
def test_exit_status(
    error: BaseException, status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fail(error), tmp_path) == status
    out = capsys.readouterr()
    assert message in out.err and out.err.count("\n") == 1
    assert out.out == ""


def test_a_bug_is_logged_with_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(fail(RuntimeError("broken")), tmp_path) == 1
    assert "the job failed; run the same command again to resume" in caplog.text
    assert "RuntimeError: broken" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_job_with_130_and_one_line(number: signal.Signals, tmp_path: Path) -> None:
    flags = ["make", "--count", "50000", "--out", str(tmp_path)]
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.world", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored if ours runs in the background
    )
    until(lambda: any(tmp_path.glob("images/*/*.png")) or any(tmp_path.glob("images/*.png")))
    job.send_signal(number)
    _, error = job.communicate(timeout=60)
    assert job.returncode == 130
    assert error.splitlines()[-1] == f"interrupted; run the same command again to resume {tmp_path}"
    assert "Traceback" not in error
