"""Units through Ray to files: in order, each once, whatever fails and wherever it stops."""

from pathlib import Path

import pyarrow as pa
import pytest

from actors.rows import FAULT, UNITS, Row, each, table
from jobs.pipeline import PipelineConfig, Progress, Stage, _batches, write_units
from jobs.tables import ROWS_PER_FILE, Files, parts, read_rows
from visvm.config import load
from visvm.records import ERRORS

NAMED = pa.schema([*UNITS, ("answer", pa.string())])


class Answer:
    """A stage without a model; it fails on pictures whose bytes say so."""

    def __init__(self, answer: str) -> None:
        self.answer = answer

    def __call__(self, batch: pa.Table) -> pa.Table:
        return table(
            each(batch.to_pylist(), self._answer, stage="answer"), pa.schema([*NAMED, *pa.schema(FAULT)])
        )

    def _answer(self, rows: list[Row]) -> list[Row]:
        bad = [row["image_id"] for row in rows if row["data"] == b"bad"]
        if bad:
            raise ValueError(f"cannot answer {bad}")
        return [{**row, "answer": self.answer} for row in rows]


def make(folder: Path, num: int, bad: tuple[int, ...] = ()) -> pa.Table:
    folder.mkdir()
    for i in range(num):
        (folder / f"{i}.png").write_bytes(b"bad" if i in bad else b"good")
    rows = [
        {"id": f"u{i}", "image_id": str(i), "uri": str(folder / f"{i}.png"), "prompt": "?"}
        for i in range(num)
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def write(units: pa.Table, out: Path, answer: str = "yes", max_error_share: float = 0.5) -> list[Row]:
    config = load(PipelineConfig, images=".", out=str(out), batch_size=8, max_error_share=max_error_share)
    stages = [Stage(Answer, {"answer": answer}, num_cpus=0.5)]
    write_units(units, out / "answers", NAMED, stages=stages, config=config)
    return list(read_rows(out / "answers"))


@pytest.mark.ray
def test_every_unit_is_one_row_in_order_or_one_error(tmp_path: Path) -> None:
    units = make(tmp_path / "files", 70, bad=(3, 20, 21))
    (tmp_path / "files" / "5.png").unlink()
    rows = write(units, tmp_path / "out")
    assert [row["image_id"] for row in rows] == [str(i) for i in range(70) if i not in (3, 5, 20, 21)]
    errors = list(read_rows(tmp_path / "out" / "errors"))
    assert [(row["image_id"], row["stage"]) for row in errors] == [
        ("3", "answer"),
        ("5", "read"),
        ("20", "answer"),
        ("21", "answer"),
    ]
    assert errors[0]["reason"] == "cannot answer ['3']" and "No such file" in errors[1]["reason"]


@pytest.mark.ray
def test_a_second_run_does_what_is_missing_and_tries_errors_again(tmp_path: Path) -> None:
    units = make(tmp_path / "files", ROWS_PER_FILE + 6, bad=(2,))
    out = tmp_path / "out"
    write(units.slice(0, ROWS_PER_FILE), out, "first")
    (out / "answers" / "part-00001.parquet.tmp").write_bytes(b"half a file")
    (tmp_path / "files" / "2.png").write_bytes(b"good")
    rows = write(units, out, "second")
    assert sorted(row["id"] for row in rows) == sorted(units["id"].to_pylist())
    assert [row["answer"] for row in rows] == ["first"] * (ROWS_PER_FILE - 1) + ["second"] * 7
    assert list(read_rows(out / "errors")) == []
    written = [path.stat().st_mtime_ns for path in parts(out / "answers")]
    assert write(units, out, "third") == rows
    assert [path.stat().st_mtime_ns for path in parts(out / "answers")] == written


@pytest.mark.ray
def test_too_many_errors_fail_the_job_and_keep_what_is_done(tmp_path: Path) -> None:
    units = make(tmp_path / "files", 8, bad=(0, 1, 2))
    with pytest.raises(RuntimeError, match=r"3 of 8 units failed, more than max_error_share = 0\.3"):
        write(units, tmp_path / "out", max_error_share=0.3)
    assert len(list(read_rows(tmp_path / "out" / "answers"))) == 5
    assert len(list(read_rows(tmp_path / "out" / "errors"))) == 3


def test_what_is_left_is_cut_into_the_batches_of_an_unbroken_run() -> None:
    rows = [{"id": str(i), "image_id": str(i), "uri": "?", "prompt": "?"} for i in range(10)]
    units = pa.Table.from_pylist(rows, schema=UNITS)
    for done, expected in (
        ([], [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]),
        (["0", "1", "3"], [["4", "5", "6", "7"], ["8", "9"], ["2"]]),
        (list("0123456789"), []),
    ):
        left = _batches(units, pa.chunked_array([done], pa.string()), 4)
        assert [batch["id"].to_pylist() for batch in left] == expected


def test_files_take_rows_of_their_schema_only(tmp_path: Path) -> None:
    files = Files(tmp_path, ERRORS)
    with pytest.raises(AssertionError):
        files.add(UNITS.empty_table())
    row = {"uri": "a", "image_id": "1", "stage": "read", "reason": "gone"}
    for _ in range(ROWS_PER_FILE + 1):
        files.add(table([row], ERRORS))
    assert len(parts(tmp_path)) == 1
    files.flush()
    assert [path.name for path in parts(tmp_path)] == ["part-00000.parquet", "part-00001.parquet"]
    assert Files(tmp_path, ERRORS).column("uri").to_pylist() == ["a"] * (ROWS_PER_FILE + 1)


def test_progress_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        progress = Progress("captions", total=10, done=4)
        progress.add(6, num_errors=1)
    assert "going on after 4 of 10" in caplog.messages[0]
    assert "captions: 10 of 10, 1 failed" in caplog.messages[1] and "0 s left" in caplog.messages[1]
