"""Two runs never have one output folder; whoever finds a dead one's folder takes it over."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from jobs import world
from jobs.runner.lock import Lock, S3Lock, acquire, lock_seconds
from jobs.runner.run_folder import RunFolder, read_json
from tests.support.fakes import until
from tests.support.paths import ROOT
from visvm import storage
from visvm.config import Config

SECONDS = 2.0  # S3 tells times in whole seconds


class Settings(Config):
    OPERATIONAL: ClassVar[frozenset[str]] = frozenset({"workers"})

    out: str
    size: int = 1
    workers: int = 1


@pytest.fixture(params=["here", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VISVM_LOCK_SECONDS", str(SECONDS))
    return str(tmp_path / "run") if request.param == "here" else request.getfixturevalue("s3") + "/run"


def test_a_folder_in_use_is_refused_until_it_is_free(place: str) -> None:
    for _ in range(2):
        with (
            RunFolder.of(Settings(out=place)),
            pytest.raises(ValueError, match="in use by another run"),
            RunFolder.of(Settings(out=place)),
        ):
            pass
    storage.delete(f"{place}/config.yaml")
    assert set(storage.names(place, "*")) <= {".lock"}


def test_two_jobs_on_one_output_refuse_each_other(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISVM_LOCK_SECONDS", "30")
    flags = ["make", "--count", "50000", "--out", place]
    first = subprocess.Popen(
        [sys.executable, "-m", "jobs.world", *flags], cwd=ROOT, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: storage.exists(f"{place}/config.yaml"))
        assert world.main(flags) == 2
        assert f"{place} is in use by another run" in capsys.readouterr().err
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()


def test_a_run_goes_on_with_other_workers_but_not_with_another_size(place: str) -> None:
    with RunFolder.of(Settings(out=place)) as folder:
        storage.write(f"{place}/rows.txt", "rows")
    with RunFolder.of(Settings(out=place, workers=2)) as folder:
        assert not folder.complete
    with pytest.raises(ValueError, match="written with another config"):
        RunFolder.of(Settings(out=place, size=2)).__enter__()
    with RunFolder.of(Settings(out=place)) as folder:
        folder.finish({"x": 1})
        assert folder.complete
    manifest = read_json(f"{place}/manifest.json")
    assert manifest["files"].keys() == {"config.yaml", "metrics.json", "rows.txt"}
    assert manifest["files"]["rows.txt"] == {"bytes": 4}


def test_a_refused_config_leaves_no_trace(place: str) -> None:
    with pytest.raises(ValueError, match="no"), RunFolder.of(Settings(out=place)):
        raise ValueError("no")
    with RunFolder.of(Settings(out=place, size=2)):
        pass


def die(lock: Lock) -> None:
    """What SIGKILL does to an owner: it falls silent."""
    assert isinstance(lock, S3Lock)
    lock._done.set()
    lock._thread.join()


def test_the_folder_of_a_dead_run_is_taken_over_once(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISVM_LOCK_SECONDS", str(SECONDS))
    die(acquire(f"{s3}/run"))
    started = time.monotonic()
    outcomes: list[Lock | str] = []
    threads = [threading.Thread(target=lambda: outcomes.append(outcome(f"{s3}/run"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    locks = [one for one in outcomes if not isinstance(one, str)]
    assert len(locks) == 1 and all("in use" in one for one in outcomes if isinstance(one, str))
    assert time.monotonic() - started >= SECONDS - 1
    locks[0].release()


def outcome(folder: str) -> Lock | str:
    try:
        return acquire(folder)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("how", ["taken", "gone", "away"])
def test_who_loses_its_folder_is_stopped_and_writes_no_manifest(
    how: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISVM_LOCK_SECONDS", str(SECONDS))
    folder = RunFolder.of(Settings(out=f"{s3}/run"))
    change: dict[str, Callable[[], object]] = {
        "taken": lambda: storage.write(f"{s3}/run/.lock", '{"owner": "another"}'),
        "gone": lambda: storage.delete(f"{s3}/run/.lock"),
        "away": lambda: monkeypatch.setattr("visvm.storage.s3.put", unreachable),
    }
    with pytest.raises(RuntimeError, match=r"the run lost its output folder: s3://.*/run/\.lock"), folder:
        change[how]()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
        folder.finish({})
    monkeypatch.undo()
    assert not storage.exists(f"{s3}/run/manifest.json")
    if how == "taken":
        assert read_json(f"{s3}/run/.lock") == {"owner": "another"}, "the other's lock stays"


def unreachable(*_: object, **__: object) -> str:
    raise storage.Unreachable("away")


def test_the_setting_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VISVM_LOCK_SECONDS", raising=False)
    assert lock_seconds() == 180
    monkeypatch.setenv("VISVM_LOCK_SECONDS", "soon")
    with pytest.raises(ValueError, match="VISVM_LOCK_SECONDS = 'soon'"):
        lock_seconds()
