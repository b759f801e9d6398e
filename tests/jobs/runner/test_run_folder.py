"""A run folder believes neither a damaged manifest nor a damaged part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.runner.command import run
from jobs.runner.part_files import PartFiles, parts, read_rows
from visvm.config import Config

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
NUM_ROWS = 40


class Settings(Config):
    """What the job of these tests takes."""

    out: str


def rows(ids: list[str]) -> pa.Table:
    return pa.table({"id": ids, "text": [f"text of {one}" for one in ids]}, schema=SCHEMA)


def work(config: Settings) -> dict[str, Any]:
    """Write the rows that are not there yet, ten to a file."""
    files = PartFiles(f"{config.out}/rows", SCHEMA)
    done = set(files.column("id").to_pylist())
    todo = [str(i) for i in range(NUM_ROWS) if str(i) not in done]
    for start in range(0, len(todo), 10):
        files.add(rows(todo[start : start + 10]))
        files.flush()
    return {"num_written": len(todo)}


def main(out: Path) -> int:
    return run(Settings, work, ["--out", str(out)], doc="A job.")


def ids(out: Path) -> list[int]:
    return sorted(int(row["id"]) for row in read_rows(out / "rows"))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    assert main(tmp_path / "out") == 0
    return tmp_path / "out"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"complete": true}', '{"files": {"a": 1}}', "\0\0\0"])
def test_a_damaged_manifest_is_no_proof(text: str, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    (finished / "manifest.json").write_text(text)
    Path(parts(finished / "rows")[1]).unlink()
    assert main(finished) == 0
    assert "manifest.json is damaged" in caplog.text
    assert ids(finished) == list(range(NUM_ROWS))


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_missing_part_is_made_again(place: int, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = Path(parts(finished / "rows")[place])
    part.unlink()
    assert main(finished) == 0
    assert f"{part.name} is missing" in caplog.text
    assert ids(finished) == list(range(NUM_ROWS))
    assert main(finished) == 0
    assert ids(finished) == list(range(NUM_ROWS))


@pytest.mark.parametrize("place", [4, 150, -3])
def test_a_part_with_flipped_bytes_is_named_before_any_work(
    place: int, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished / "manifest.json").unlink()
    part = Path(parts(finished / "rows")[2])
    data = bytearray(part.read_bytes())
    data[place] ^= 0xFF
    part.write_bytes(data)
    assert main(finished) == 2
    error = capsys.readouterr().err
    assert f"{part} is damaged" in error and error.count("\n") == 1


@pytest.mark.parametrize("size", [0, 10, 300])
def test_a_part_that_is_cut_off_is_named(
    size: int, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Path(parts(finished / "rows")[2])
    part.write_bytes(part.read_bytes()[:size])
    (finished / "manifest.json").unlink()
    assert main(finished) == 2
    assert f"{part} is damaged" in capsys.readouterr().err


def test_a_finished_run_is_left_alone_though_its_card_was_edited(finished: Path) -> None:
    (finished / "README.md").write_text("mine")
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*.parquet")}
    assert main(finished) == 0
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*.parquet")} == before
