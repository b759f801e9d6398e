"""The calibrate job: from a run of captions and annotations to the file that caption takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import calibrate
from jobs.caption import CaptionConfig, calibrated
from visvm.schemas import CAPTIONS
from visvm.world import coco_export
from visvm.world.scenes import layout

NUM = 60


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    coco_export.make(tmp_path / "coco", split="validation", count=NUM)
    return tmp_path / "coco"


def run_folder(folder: Path, **config: Any) -> Path:
    """What visvm caption leaves: every fourth caption names an absent object, at reward .2."""
    rows = []
    for index in range(NUM):
        one = layout("validation", index)
        texts, values = [f"A {one.names[0]} is at the top."], [0.5 + index / 1000]
        if index % 4 == 0:
            texts.append(f" There is also a {one.absent[0]} nearby.")
            values.append(0.2 + index / 1000)
        known = {"image_id": f"{one.image_id:012d}", "caption": "".join(texts), "method": "filter"}
        rows.append({**known, "sentences": texts, "values": values, "id": str(index)})
    (folder / "captions").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=CAPTIONS), folder / "captions" / "part-00000.parquet")
    given = {"policy": "world", "reward": "world", "method": "filter", "scorer": None} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    return folder


def test_a_calibration_is_found_and_taken(tmp_path: Path, coco: Path) -> None:
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"
    words = ["--captions", str(run), "--coco", str(coco), "--alpha", "0.1", "--out", str(out)]
    assert calibrate.main(words) == 0
    found = json.loads((out / "calibration.json").read_text())
    assert 0.2 < found["tau"] < 0.3
    assert found["num_images"] == NUM
    assert found["empirical_risk"] <= 0.1
    given = {"images": "x", "out": "y", "calibration": str(out / "calibration.json")}
    config = calibrated(CaptionConfig(**given, method="filter", reward="world"))
    assert config.drop_below == found["tau"]
    for change, told in (({"method": "greedy"}, "method"), ({"policy": "org/other"}, "policy")):
        with pytest.raises(ValueError, match=f"made with {told}"):
            calibrated(CaptionConfig(**{**given, "method": "filter", "reward": "world", **change}))
    with pytest.raises(ValueError, match="not both"):
        calibrated(CaptionConfig(**given, method="filter", reward="world", drop_below=0.1))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"drop_below": 0.3}, "sentences were dropped"),
        ({"calibration": "c.json"}, "sentences were dropped"),
        ({}, "at least 99"),
    ],
)
def test_what_cannot_be_promised_is_refused(
    tmp_path: Path, coco: Path, capsys: Any, config: dict[str, Any], told: str
) -> None:
    run = run_folder(tmp_path / "run", **config)
    out = str(tmp_path / "out")
    assert calibrate.main(["--captions", str(run), "--coco", str(coco), "--alpha", "0.01", "--out", out]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"tau": 0.3}'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match="calibration"):
        calibrated(CaptionConfig(images="x", out="y", method="filter", calibration=str(tmp_path / "c.json")))
