"""The wheel: every file of the packages, data included, and what it says about itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from tests.support.paths import ROOT
from tests.test_house import PACKAGES, tracked

DATA = {
    "actors/serving/page.html",
    "visvm/report/page.html.j2",
    "visvm/py.typed",
    "visvm/world/weights/clip/open_clip_model.safetensors",
    "visvm/world/weights/policy/model.safetensors",
    "visvm/world/weights/value/model.safetensors",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    [path] = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_it_holds_every_file_of_the_packages_and_no_other(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names >= DATA
    assert {Path(name).parts[0] for name in names} == set(PACKAGES)
    files = {path.relative_to(ROOT).as_posix() for path in tracked()}
    assert {name for name in files if name.split("/")[0] in PACKAGES} <= names


def test_it_is_for_python_311_to_313_and_brings_the_command(wheel: zipfile.ZipFile) -> None:
    texts = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "Requires-Python: <3.14,>=3.11" in wheel.read(texts["METADATA"]).decode()
    assert "visvm = jobs.cli:main" in wheel.read(texts["entry_points.txt"]).decode()
