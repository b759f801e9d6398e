"""Images as people bring them: hub parquet, URIs, JSON, tar shards, and folders that systems have been at."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.inputs.image_list import find_all
from jobs.inputs.sources import find
from tests.support.paths import SHARED_DATA
from visvm.images import load, read

CASES = SHARED_DATA / "cases"


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def shades(place: Path | str, **options: Any) -> dict[str, int]:
    """The gray of each image found, by its id."""
    found = find(str(place), **options)
    return {source.image_id: load(source.uri).pil.getpixel((0, 0))[0] for source in found}


def write_table(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file)
    return file


BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("beside", ["path", "file_name", "uri"])
def test_bytes_count_before_the_path_beside_them(tmp_path: Path, beside: str) -> None:
    structs = [{"bytes": png(shade), "path": f"{shade}.png"} for shade in (1, 2)]
    names = {beside: ["val/1.png", "val/2.png"], "image_id": [1, 2]}
    for image in (pa.array(structs, BYTES), [one["bytes"] for one in structs]):
        assert shades(write_table(tmp_path / "a.parquet", image=image, **names)) == {"1": 1, "2": 2}


@pytest.mark.parametrize("column", ["image", "jpg", "png", "img"])
def test_a_data_set_of_the_hub_has_its_tables_in_folders(tmp_path: Path, column: str) -> None:
    for split, shade in (("train", 1), ("test", 2)):
        (tmp_path / "default" / split).mkdir(parents=True)
        image = pa.array([{"bytes": png(shade), "path": None}], BYTES)
        write_table(tmp_path / "default" / split / "0000.parquet", **{column: image})
    (tmp_path / "README.md").write_text("a card")
    expected = {"default/train/0000-000000": 1, "default/test/0000-000000": 2}
    assert shades(tmp_path) == dict(sorted(expected.items()))


def test_missing_bytes_are_read_from_the_path(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(png(9))
    data = [None, b"", png(7), None]
    structs = [{"bytes": one, "path": "a b.png"} for one in data[:3]] + [{"bytes": None, "path": "a%20b.png"}]
    expected = {"t-000000": 9, "t-000001": 9, "t-000002": 7, "t-000003": 9}
    assert shades(write_table(tmp_path / "t.parquet", image=pa.array(structs, BYTES))) == expected
    beside = {"image": pa.array(data, pa.binary()), "path": ["a b.png"] * 4}
    assert shades(write_table(tmp_path / "t.parquet", **beside)) == expected


def test_a_row_with_neither_is_an_error_of_that_row(tmp_path: Path) -> None:
    structs = [{"bytes": None, "path": None}, {"bytes": png(7), "path": None}]
    table = write_table(tmp_path / "t.parquet", image=pa.array(structs, BYTES), path=[None, None])
    first, second = find(str(table))
    with pytest.raises(ValueError, match="neither the bytes of an image nor a path"):
        read(first.uri)
    assert read(second.uri) == png(7)


def test_a_path_that_leads_back_to_its_row_is_an_error(tmp_path: Path) -> None:
    structs = [{"bytes": None, "path": "t.parquet#image=0"}]
    [source] = find(str(write_table(tmp_path / "t.parquet", image=pa.array(structs, BYTES))))
    with pytest.raises(ValueError, match="cannot read"):
        read(source.uri)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([139.0, 285.0], ["139", "285"]),
        ([None, 285.0], ["285", "t-000000"]),
        (pa.array([None, None], pa.int64()), ["t-000000", "t-000001"]),
        (["a/b", "007"], ["007", "a/b"]),
    ],
)
def test_ids_of_every_type(tmp_path: Path, ids: Any, expected: list[str]) -> None:
    write_table(tmp_path / "t.parquet", id=ids, image=[png(1), png(2)])
    assert [source.image_id for source in find(str(tmp_path / "t.parquet"))] == expected


def test_an_id_that_is_none_is_refused_with_its_row(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", id=[1.0, 2.5], image=[png(1), png(2)])
    with pytest.raises(ValueError, match=r"t\.parquet row 1: an image id must be a whole number or text"):
        find(str(tmp_path / "t.parquet"))


def test_uris_and_percent_escapes(tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    (folder / "a b.png").write_bytes(png(5))
    (folder / "100%25.png").write_bytes(png(6))
    path = str(folder / "a b.png")
    uris = [Path(path).as_uri(), f"file://{path}", f"file:{path}", f"file://localhost{path}"]
    uris += ["my%20photos/a b.png", "my photos/a b.png", path]
    write_table(tmp_path / "t.parquet", uri=[*uris, "my photos/100%25.png", f"file://{folder}/100%25.png"])
    assert list(shades(tmp_path / "t.parquet").values()) == [5] * len(uris) + [6, 6]
    assert shades(folder.as_uri()) == {"a b.png": 5, "100%25.png": 6}


@pytest.mark.parametrize("compress", [lambda data: data, gzip.compress])
@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "list.gz", "list"])
def test_rows_of_json_in_any_form(tmp_path: Path, name: str, compress: Any) -> None:
    for shade in (1, 2):
        (tmp_path / f"{shade}.png").write_bytes(png(shade))
    rows = [{"id": 7.0, "file_name": "1.png"}, {"image_id": "x", "image": "2.png"}]
    forms = [json.dumps(rows), json.dumps({"images": rows}), "\n".join(map(json.dumps, rows))]
    for form in forms:
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / name).write_bytes(compress(form.encode(encoding)))
            assert shades(tmp_path / name) == {"7": 1, "x": 2}


def test_a_broken_row_of_json_is_named(tmp_path: Path) -> None:
    for text, problem in (
        ('{"id": 1, "file_name": "a"}\n{"id": 2}', "line 2: expected the name of an image under one of"),
        ('{"images": [{"id": [], "file_name": "a"}]}', r"images\[0\]: an image id must be"),
        ('{"images": 3}', "expected a list of objects"),
        ('[{"id": 1}', "line 1: neither JSON nor JSON lines"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=problem):
            find(str(tmp_path / "a.json"))


def write_tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def test_shards_of_webdataset(tmp_path: Path) -> None:
    for shard in (0, 1):
        members = {"./a.png": png(shard), "a.json": b"{}", "b.jpg": png(shard + 5), "._b.jpg": b"x"}
        write_tar(tmp_path / f"s-{shard}.tar", members)
    expected = {"s-0/a.png": 0, "s-0/b.jpg": 5, "s-1/a.png": 1, "s-1/b.jpg": 6}
    assert shades(tmp_path) == expected
    (tmp_path / "s-0.tar").rename(tmp_path / "other")
    assert shades(tmp_path / "other") == {"other/a.png": 0, "other/b.jpg": 5}


def test_damaged_and_compressed_tar_files_are_refused(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", {"a.png": png(1), "b.png": png(2)})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(ValueError, match="compressed tar"):
        find(str(tmp_path / "a.tar.gz"))
    data = bytearray(file.read_bytes())
    data[1024 + 148 : 1024 + 156] = b"rubbish!"  # the checksum of the second header
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot read .*a\.tar"):
        find(str(file))


def test_files_of_systems_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["a.png", "b/c.jpg", "._a.png", "__MACOSX/._a.png", ".ipynb_checkpoints/a-checkpoint.png"]
    names += ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "Thumbs.db", "b/.DS_Store", "b/._c.jpg", "._t.parquet"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(3))
    assert shades(tmp_path) == {"a.png": 3, "b/c.jpg": 3}
    assert "5 files of the system are skipped" in caplog.text
    assert [source.image_id for source in find_all(str(tmp_path / "*.png"))] == ["a.png"]


def test_a_name_that_is_no_utf8_is_an_error_of_that_image(tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(png(1))
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(png(2))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    bad, good = find(str(tmp_path))
    assert (bad.image_id, good.image_id) == (r"caf\xe9.png", "good.png")
    assert pa.array([bad.uri, bad.image_id]).to_pylist() == [bad.uri, bad.image_id]
    with pytest.raises(ValueError, match=r"caf%E9\.png: the name is no UTF-8: rename the file"):
        read(bad.uri)
    assert read(good.uri) == png(1)


def test_a_folder_that_may_not_be_read_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scan = os.scandir

    def refuse(folder: str) -> Any:  # root may read everything, so modes show nothing
        if folder.endswith("private"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "private").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    assert shades(tmp_path) == {"a.png": 1}
    assert "private is left out: Permission denied" in caplog.text
    with pytest.raises(ValueError, match="cannot read images"):
        find(str(tmp_path / "private"))


def test_links_are_followed_but_never_round_in_circles(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "a.png").write_bytes(png(1))
    (tmp_path / "elsewhere" / "b.png").write_bytes(png(2))
    (folder / "deep" / "up").symlink_to(folder)
    (folder / "self.png").symlink_to("self.png")
    (folder / "gone.png").symlink_to("gone")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    assert shades(folder) == {"a.png": 1, "linked/b.png": 2}


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
def test_shared_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = CASES / "hub-parquet"
    ids = {file.stem: list(shades(file)) for file in sorted(hub.glob("*.parquet"))}
    assert ids == {
        "binary": ["a/b"],
        "float_ids": ["139", "285"],
        "null_bytes": ["null_bytes-000000", "null_bytes-000001"],
        "null_ids": ["null_ids-000000", "null_ids-000001"],
        "path_and_image": ["1", "2"],
    }
    assert list(shades(CASES / "mac-folder")) == ["IMG_1.png", "IMG_2.png"]
    image = CASES / "uri-column" / "my photos" / "a b.png"
    uris = [image.as_uri(), f"file://{image}"]
    assert len(shades(write_table(tmp_path / "uris.parquet", id=["percent", "plain"], uri=uris))) == 2
