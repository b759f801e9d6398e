"""Images named by files, globs and folders, in one list."""

from pathlib import Path

import pytest

from jobs.inputs.image_list import find_all
from jobs.inputs.sources import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "b/deep/3.png", "b/notes.txt", "x[1].png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def ids(*entries: Path | str) -> list[str]:
    return [source.image_id for source in find_all([str(entry) for entry in entries])]


def test_one_file_is_enough(folder: Path) -> None:
    assert find_all(str(folder / "a/2.jpg")) == [Source("2.jpg", str(folder / "a/2.jpg"))]
    assert ids(folder / "x[1].png") == ["x[1].png"]


def test_a_glob_names_images_below_its_first_wildcard(folder: Path) -> None:
    assert ids(folder / "*/*.png") == ["a/1.png", "b/1.png"]
    assert ids(folder / "b/*") == ["1.png"]
    assert [source.uri for source in find_all(str(folder / "?/1.png"))] == [
        str(folder / "a/1.png"),
        str(folder / "b/1.png"),
    ]


def test_entries_join_and_a_file_counts_once(folder: Path) -> None:
    assert ids(folder / "a", folder / "a/2.jpg", folder / "b/deep/*.png") == ["1.png", "2.jpg", "3.png"]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["a/1.png", "b/1.png"], "stand for more than one image"),
        (["*.gif"], "no image file matches"),
        (["a/9.png"], "no such file"),
        (["missing", "a"], "no such file or folder"),
    ],
)
def test_what_cannot_be_used_is_refused(folder: Path, entries: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ids(*(folder / entry for entry in entries))
