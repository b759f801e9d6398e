"""The small inputs beside the checkout that once failed: each gives what its README expects.

Others are tried beside the tests of their code: sources, images, evaluate and the endpoint.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs import caption
from jobs.inputs.sources import find
from jobs.runner.part_files import read_rows
from tests.support.paths import SHARED_DATA
from visvm.images import load
from visvm.sentences import split_sentences

CASES = SHARED_DATA / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")


def test_full_stops_of_other_scripts_end_sentences() -> None:
    lines = (CASES / "sentence-marks" / "texts.txt").read_text(encoding="utf-8").splitlines()
    expected = {text: int(number) for number, text in (line.split(" ", 1) for line in lines)}
    assert {text: len(split_sentences(text)) for text in expected} == expected


def test_a_loop_of_abbreviations_is_split_losslessly() -> None:
    text = "It is " + "U.S. a " * 1000
    assert "".join(split_sentences(text)) == text


@pytest.mark.parametrize("name", ["mac-folder", "rerun-new-pictures/photos"])
def test_photos_are_found_and_nothing_of_the_system(name: str) -> None:
    found = find(str(CASES / name))
    assert [source.image_id for source in found] == ["IMG_1.png", "IMG_2.png"]
    assert all(min(load(source.uri).pil.size) > 0 for source in found)


@pytest.mark.ray
def test_a_new_image_is_captioned_by_the_same_command(local_ray: None, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(CASES / "rerun-new-pictures" / "photos", photos)
    words = ["--images", str(photos), "--method", "greedy", "--max-new-tokens", "16", "--out", str(out)]
    assert caption.main(words) == 0
    first = {row["image_id"]: row["caption"] for row in read_rows(out / "captions")}
    shutil.copy(photos / "IMG_1.png", photos / "IMG_3.png")
    assert caption.main(words) == 0
    second = {row["image_id"]: row["caption"] for row in read_rows(out / "captions")}
    assert second == {**first, "IMG_3.png": first["IMG_1.png"]}
