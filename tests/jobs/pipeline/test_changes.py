"""A second run with other images: what is new is done, what changed is done again, nothing is lost."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from actors.batch.rows import UNITS
from jobs.pipeline.changes import take_in
from jobs.runner.part_files import PartFiles, read_rows
from visvm import images
from visvm.images import content_hash
from visvm.schemas import CAPTIONS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        (folder / name).write_text(name)
    return folder


def units(photos: Path) -> pa.Table:
    rows = [
        {"id": f"{file.name}-x", "image_id": file.name, "uri": str(file), "prompt": "?"}
        for file in sorted(photos.iterdir())
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def caption_all(photos: Path, out: Path) -> list[str]:
    """Take in the images, caption those left and return their names."""
    files = PartFiles(out / "captions", CAPTIONS)
    given = take_in(units(photos), files)
    done = set(files.column("id").to_pylist())
    rows = [
        {**row, "content_hash": content_hash(Path(row["uri"]).read_bytes()), "caption": "A cat."}
        for row in given.to_pylist()
        if row["id"] not in done
    ]
    if rows:
        files.add(pa.Table.from_pylist(rows, schema=CAPTIONS))
        files.flush()
    return [row["image_id"] for row in rows]


def captioned(out: Path, folder: str = "captions") -> dict[str, str]:
    found = [(row["image_id"], row["content_hash"]) for row in read_rows(out / folder)]
    assert len(dict(found)) == len(found)
    return dict(sorted(found))


def hashes(photos: Path) -> dict[str, str]:
    return {file.name: content_hash(file.read_bytes()) for file in sorted(photos.iterdir())}


def test_new_changed_and_missing_images(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert caption_all(photos, out) == ["1.png", "2.png", "3.png"]
    before = captioned(out)
    caplog.set_level("INFO")
    (photos / "0.png").write_text("new")
    (photos / "2.png").write_text("other")
    (photos / "3.png").unlink()
    assert caption_all(photos, out) == ["0.png", "2.png"]
    assert captioned(out) == hashes(photos)
    assert captioned(out, "set_aside") == {name: before[name] for name in ("2.png", "3.png")}
    for said in ("1 images are new", "1 rows are made again", "1 rows are of images"):
        assert said in caplog.text
    assert caption_all(photos, out) == []


def test_a_file_of_the_same_size_and_time_is_told_by_its_content_or_inode_time(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    caption_all(photos, out)
    older = tmp_path / "older.png"
    older.write_text("6.png")
    os.utime(older, (1e9, 1e9))
    older.replace(photos / "2.png")  # as mv and cp -p do
    assert caption_all(photos, out) == ["2.png"]
    assert captioned(out) == hashes(photos)


def test_images_that_were_only_touched_or_moved_are_not_done_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption_all(photos, out)
    for file in photos.iterdir():
        os.utime(file, (2e9, 2e9))
    assert caption_all(photos, out) == []
    assert caption_all(photos.rename(tmp_path / "moved"), out) == []


def test_images_whose_stamps_are_as_before_are_not_read_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    caption_all(photos, out)
    monkeypatch.setattr(images, "read", lambda uri: pytest.fail(f"read {uri}"))
    assert caption_all(photos, out) == []


def test_a_run_of_an_earlier_version_has_no_stamps_and_is_compared_by_content(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    caption_all(photos, out)
    (photos / "1.png").write_text("other")
    for damage in (None, "[1, 2", "3"):
        (out / "image_stamps.json").write_text(damage) if damage else (out / "image_stamps.json").unlink()
        assert caption_all(photos, out) == (["1.png"] if damage is None else [])
    assert captioned(out) == hashes(photos)


def test_triples_of_rows_that_are_set_aside_are_made_anew(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    caption_all(photos, out)
    (out / "triples").mkdir()
    (out / "triples" / "part-00000.parquet").write_text("of the first captions")
    (photos / "1.png").unlink()
    caption_all(photos, out)
    assert list((out / "triples").iterdir()) == []
