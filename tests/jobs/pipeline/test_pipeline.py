"""Units through Ray to files: each once, whatever fails, whatever dies and wherever it stops."""

import hashlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from actors.batch.rows import FAULT, UNIT, UNITS, Row, each, table
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.execution import _batches, write_units
from jobs.pipeline.progress import Progress
from jobs.pipeline.stage import Stage
from jobs.runner import part_files
from jobs.runner.command import run
from jobs.runner.part_files import PartFiles, parts, read_rows
from visvm.config import load as load_config
from visvm.schemas import ERRORS

NUM_DONE = 64
NAMED = pa.schema([*UNIT, ("answer", pa.string())])


class Answer:
    """A stage without a model; what an image's bytes say is what it does to it."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = each(batch.to_pylist(), read, stage="read")
        return table(each(rows, self._answer, stage="answer"), pa.schema([*NAMED, *pa.schema(FAULT)]))

    def _answer(self, rows: list[Row]) -> list[Row]:
        said = {row["image_id"]: row["data"].decode() for row in rows}
        if bad := [name for name, word in said.items() if word == "bad"]:
            raise ValueError(f"cannot answer {bad}")
        for word in said.values():
            if word == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if word.startswith("once ") and not Path(word[5:]).exists():
                Path(word[5:]).touch()
                os._exit(1)
        return [{**row, "answer": f"{self.answer} {len(rows)}"} for row in rows]


def read(rows: list[Row]) -> list[Row]:
    return [{**row, "data": Path(row["uri"]).read_bytes()} for row in rows]


def make(folder: Path, num: int, **words: tuple[int, ...]) -> pa.Table:
    """Units of images whose files say "good", or the words at the places given."""
    folder.mkdir()
    rows = []
    for i in range(num):
        said = [word for word, places in words.items() if i in places]
        (folder / f"{i}.png").write_text(said[0] if said else "good")
        rows.append({"id": f"u{i}", "image_id": str(i), "uri": str(folder / f"{i}.png"), "prompt": "?"})
    return pa.Table.from_pylist(rows, schema=UNITS)


def write(units: pa.Table, out: Path, answer: str = "yes", max_error_share: float = 0.5) -> list[Row]:
    return write_counting(units, out, answer, max_error_share)[0]


def write_counting(
    units: pa.Table, out: Path, answer: str = "yes", max_error_share: float = 0.5
) -> tuple[list[Row], int]:
    config = load_config(
        PipelineConfig, images=".", out=str(out), batch_size=8, max_error_share=max_error_share
    )
    stages = [Stage(Answer, {"answer": answer}, num_cpus=0.5)]
    num_retried = write_units(units, out / "answers", NAMED, stages=stages, config=config)
    return rows_of(out / "answers"), num_retried


def rows_of(folder: Path) -> list[Row]:
    return sorted(read_rows(folder), key=lambda row: int(row["image_id"]))


@pytest.mark.ray
def test_every_unit_is_one_row_or_one_error(tmp_path: Path) -> None:
    units = make(tmp_path / "files", 70, bad=(3, 20, 21))
    (tmp_path / "files" / "5.png").unlink()
    rows = write(units, tmp_path / "out")
    assert [row["image_id"] for row in rows] == [str(i) for i in range(70) if i not in (3, 5, 20, 21)]
    errors = rows_of(tmp_path / "out" / "errors")
    assert [(row["image_id"], row["stage"]) for row in errors] == [
        ("3", "answer"),
        ("5", "read"),
        ("20", "answer"),
        ("21", "answer"),
    ]
    assert errors[0]["reason"] == "cannot answer ['3']" and "No such file" in errors[1]["reason"]


@pytest.mark.ray
def test_a_row_that_kills_its_actor_every_time_is_an_error_and_costs_no_other(tmp_path: Path) -> None:
    """A batch whose process died only once runs whole again."""
    units = make(tmp_path / "files", 24, kill=(13,), bad=(11,))
    (tmp_path / "files" / "17.png").write_text(f"once {tmp_path / 'died'}")
    rows, num_retried = write_counting(units, tmp_path / "out")
    assert num_retried >= 4  # twice the batch of 13, twice 13 alone, once the batch of 17
    assert [row["image_id"] for row in rows] == [str(i) for i in range(24) if i not in (11, 13)]
    assert {row["image_id"] for row in rows if row["answer"] != "yes 8"} == {"8", "9", "10", "12", "14", "15"}
    reasons = {row["image_id"]: (row["stage"], row["reason"]) for row in rows_of(tmp_path / "out" / "errors")}
    killed = ("answer", "killed its actor 2 times when it was alone")
    assert reasons == {"11": ("answer", "cannot answer ['11']"), "13": killed}


class Stillborn:
    """A stage whose process dies while it loads."""

    def __init__(self) -> None:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.ray
def test_actors_that_die_while_they_load_end_the_job(tmp_path: Path) -> None:
    units = make(tmp_path / "files", 2)
    config = load_config(PipelineConfig, images=".", out=str(tmp_path / "out"))
    with pytest.raises(Exception, match="stillborn: actors died 10 times in a row"):
        write_units(units, tmp_path / "out" / "x", NAMED, stages=[Stage(Stillborn, {})], config=config)


class Wordy(Answer):
    """Two kilobytes a row that no codec makes smaller."""

    def _answer(self, rows: list[Row]) -> list[Row]:
        return [{**row, "answer": hashlib.shake_128(row["id"].encode()).hexdigest(1000)} for row in rows]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 220 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=220k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.ray
def test_a_full_disk_ends_the_job_in_one_line_and_the_next_run_goes_on(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units, out = make(tmp_path / "files", NUM_DONE + 72), small_disk / "out"

    def work(config: PipelineConfig) -> dict[str, Any]:
        stages = [Stage(Wordy, {"answer": ""}, num_cpus=0.5)]
        write_units(units, out / "answers", NAMED, stages=stages, config=config)
        return {}

    words = [
        "--images",
        str(tmp_path / "files"),
        "--out",
        str(out),
        "--batch-size",
        "8",
        "--commit-seconds",
        "0",
    ]
    assert run(PipelineConfig, work, words, doc="") == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert "No space left on device" in line and "run the same command again" in line
    written = {path: Path(path).stat().st_mtime_ns for path in parts(out / "answers")}
    assert 1 <= len(written) < 17
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert run(PipelineConfig, work, words, doc="") == 0
    assert [row["id"] for row in rows_of(out / "answers")] == units["id"].to_pylist()
    assert {path: Path(path).stat().st_mtime_ns for path in written} == written


@pytest.mark.ray
def test_a_second_run_does_what_is_missing_and_tries_errors_again(tmp_path: Path) -> None:
    units = make(tmp_path / "files", NUM_DONE + 6, bad=(2,))
    out = tmp_path / "out"
    write(units.slice(0, NUM_DONE), out, "first")
    (out / "answers" / "part-00001.parquet.tmp").write_bytes(b"half a file")
    (tmp_path / "files" / "2.png").write_text("good")
    rows = write(units, out, "second")
    assert [row["id"] for row in rows] == units["id"].to_pylist()
    by_answer = Counter(row["answer"] for row in rows)
    assert by_answer == {
        "first 8": 56,
        "first 4": 4,
        "first 2": 2,
        "first 1": 1,
        "second 1": 1,
        "second 6": 6,
    }
    assert rows_of(out / "errors") == []
    written = [Path(path).stat().st_mtime_ns for path in parts(out / "answers")]
    assert write(units, out, "third") == rows
    assert [Path(path).stat().st_mtime_ns for path in parts(out / "answers")] == written


@pytest.mark.ray
def test_too_many_errors_fail_the_job_and_keep_what_is_done(tmp_path: Path) -> None:
    units = make(tmp_path / "files", 8, bad=(0, 1, 2))
    with pytest.raises(RuntimeError, match=r"3 of 8 units failed, more than max_error_share = 0\.3"):
        write(units, tmp_path / "out", max_error_share=0.3)
    assert len(list(read_rows(tmp_path / "out" / "answers"))) == 5
    assert len(list(read_rows(tmp_path / "out" / "errors"))) == 3


def test_what_is_left_are_the_batches_of_an_unbroken_run() -> None:
    rows = [{"id": str(i), "image_id": str(i), "uri": "?", "prompt": "?"} for i in range(10)]
    units = pa.Table.from_pylist(rows, schema=UNITS)
    for done, expected in (
        ([], [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]),
        (["0", "1", "3"], [["2"], ["4", "5", "6", "7"], ["8", "9"]]),
        (list("0123456789"), []),
    ):
        left = _batches(units, pa.chunked_array([done], pa.string()), 4)
        assert [batch["id"].to_pylist() for batch in left] == expected


def test_resume_looks_units_up_once_whatever_the_number_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": str(i), "image_id": str(i), "uri": "?", "prompt": "?"} for i in range(1000)]
    calls: list[int] = []
    is_in = pc.is_in
    monkeypatch.setattr(pc, "is_in", lambda *args: calls.append(1) or is_in(*args))
    left = _batches(pa.Table.from_pylist(rows, schema=UNITS), pa.chunked_array([["5"]], pa.string()), 2)
    assert len(left) == 500 and len(calls) == 1


def test_files_take_rows_of_their_schema_and_are_written_when_large_or_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = table([{"uri": "a", "image_id": "1", "stage": "read", "reason": "gone"}], ERRORS)
    monkeypatch.setattr(part_files, "FILE_BYTES", 10 * row.nbytes)
    files = PartFiles(tmp_path, ERRORS, seconds=3600)
    with pytest.raises(AssertionError):
        files.add(UNITS.empty_table())
    for _ in range(15):
        files.add(row)
    assert len(parts(tmp_path)) == 1
    files.flush()
    files.seconds = 0
    files.add(row)
    assert [Path(part).name for part in parts(tmp_path)] == [f"part-0000{i}.parquet" for i in range(3)]
    assert PartFiles(tmp_path, ERRORS).column("uri").to_pylist() == ["a"] * 16


def test_of_two_who_write_one_folder_one_fails_and_no_row_is_lost(tmp_path: Path) -> None:
    first, second = PartFiles(tmp_path, ERRORS, seconds=0), PartFiles(tmp_path, ERRORS, seconds=0)
    first.add(table([{"uri": "a"}], ERRORS))
    with pytest.raises(FileExistsError):
        second.add(table([{"uri": "b"}], ERRORS))
    assert [row["uri"] for row in read_rows(tmp_path)] == ["a"]


def test_progress_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        progress = Progress("captions", total=10, done=4)
        progress.add(6, num_errors=1)
    assert "resuming after 4 of 10" in caplog.messages[0]
    assert "captions: 10 of 10, 1 failed" in caplog.messages[1] and "0 s left" in caplog.messages[1]
