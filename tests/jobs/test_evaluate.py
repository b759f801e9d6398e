"""The evaluate job: the files it takes, the figures it writes, what it says of wrong input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import evaluate
from tests.visvm.metrics.test_chair import GOLDEN, annotations
from visvm.metrics import Resampling
from visvm.metrics import evaluate as judge
from visvm.schemas import CAPTIONS

TRUTH = {"7": frozenset({"dog", "cat"}), "8": frozenset()}
GOOD = [{"image_id": 7, "caption": "A dog and a cat."}, {"image_id": 8, "caption": "Grass. Sky."}]
BAD = [{"image_id": 8, "caption": "A dog on a bench."}, {"image_id": 7, "caption": "A dog on a bench."}]


def run_folder(path: Path, rows: list[dict[str, Any]], method: str = "visvm") -> Path:
    cost = {"num_generated_tokens": 10, "num_value_calls": 6, "seconds": 0.5, "prompt": "Describe."}
    full = [
        dict.fromkeys(CAPTIONS.names)
        | {"image_id": str(row["image_id"]), "caption": row["caption"], "method": method}
        | cost
        | {"finish_reason": "length" if i else "stop"}
        for i, row in enumerate(rows)
    ]
    (path / "captions").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(full, CAPTIONS), path / "captions" / "part-00000.parquet")
    (path / "config.yaml").write_text("max_new_tokens: 99\nseed: 3\nout: x\n")
    return path


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def run(tmp_path: Path, *captions: str | Path, code: int = 0) -> dict[str, Any]:
    coco = tmp_path / "coco"
    coco.mkdir(exist_ok=True)
    out = tmp_path / "out"
    flags = ["--coco", str(annotations(coco)), "--out", str(out)]
    assert evaluate.main(["--captions", *map(str, captions), *flags]) == code
    return {} if code else json.loads((out / "metrics.json").read_text())


def test_one_file_of_captions(tmp_path: Path) -> None:
    metrics = run(tmp_path, write(tmp_path / "bad.json", BAD))
    assert (metrics["chair_s"], metrics["chair_i"], metrics["recall"]) == (1.0, 0.75, 0.5)
    assert metrics["variant"] == "original"
    assert metrics["sentences"] == [
        {"image_id": 8, "objects": ["dog", "bench"], "hallucinated": ["dog", "bench"]},
        {"image_id": 7, "objects": ["dog", "bench"], "hallucinated": ["bench"]},
    ]
    [row] = metrics["rows"]
    assert (row["method"], row["num_images"], row["num_words"], row["num_sentences"]) == ("bad", 2, 5, 1)
    assert row["chair_i_ci"] == [0.5, 1.0]
    assert row["num_generated_tokens"] is None
    assert metrics["paired"] == []


def test_methods_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path / "search", GOOD)
    metrics = run(tmp_path, f"base={write(tmp_path / 'bad.json', BAD)}", tmp_path / "search")
    base, search = metrics["rows"]
    assert (base["method"], base["chair_s"]) == ("base", 1.0)
    assert (search["method"], search["chair_s"], search["chair_i"], search["recall"]) == ("visvm", 0, 0, 1)
    costs = ("num_generated_tokens", "num_value_calls", "seconds_per_caption", "num_unfinished")
    assert [search[name] for name in costs] == [10, 6, 0.5, 1]
    differences = {(one["a"], one["b"], one["metric"]): one for one in metrics["paired"]}
    assert {"chair_s", "chair_i", "recall", "num_words"} < {metric for _, _, metric in differences}
    assert differences["visvm", "base", "chair_s"]["difference"] == -1
    assert differences["visvm", "base", "chair_s"]["ci"] == [-1, -1]
    assert metrics["prompts"] == ["Describe."]
    assert metrics["runs"][str(tmp_path / "search")] == {"max_new_tokens": 99, "seed": 3}
    assert "VisVM" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("captions", "problem"),
    [
        ([{"image_id": 7}], "caption 0 needs an image_id and a caption"),
        ([{"image_id": None, "caption": "A"}], "caption 0 needs an image_id"),
        ([{"image_id": 7, "caption": ["A"]}], "caption 0 needs"),
        (["A cat"], "caption 0 needs"),
        ({"7": "A cat"}, "expected a list"),
        ([], "no captions in it"),
        ([{"image_id": 99, "caption": "A"}], "1 of 1 image ids are in no annotation file"),
    ],
)
def test_wrong_captions_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], captions: Any, problem: str
) -> None:
    run(tmp_path, write(tmp_path / "captions.json", captions), code=2)
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing.json", "missing", "broken.json", "broken.parquet"])
def test_unreadable_captions_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "broken.parquet").write_text("PAR1")
    run(tmp_path, tmp_path / name, code=2)
    assert str(tmp_path / name) in capsys.readouterr().err


def test_two_methods_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, run_folder(tmp_path / "a", GOOD), run_folder(tmp_path / "b", BAD), code=2)
    assert "NAME=PATH" in capsys.readouterr().err


def test_methods_are_paired_on_the_images_that_both_have() -> None:
    result = judge({"a": GOOD, "b": BAD[1:]}, TRUTH)
    difference = next(one for one in result["paired"] if one["metric"] == "chair_s")
    assert (difference["a"], difference["b"], difference["difference"]) == ("b", "a", 1.0)


def test_captions_that_name_nothing() -> None:
    result = judge({"a": [{"image_id": 8, "caption": ""}]}, TRUTH)
    assert (result["chair_s"], result["chair_i"], result["recall"]) == (0, 0, 0)
    assert result["rows"][0]["num_sentences"] == 0


def test_the_order_of_captions_and_the_other_methods_do_not_matter() -> None:
    captions = [{"image_id": i, "caption": "A dog." if i % 3 else "A bench. A cat."} for i in range(40)]
    truth = {str(i): frozenset({"dog"}) for i in range(40)}
    resampling = Resampling(num_resamples=200, seed=5)
    alone = judge({"a": captions}, truth, resampling=resampling)["rows"][0]
    among = judge({"b": captions[:9], "a": captions[::-1]}, truth, resampling=resampling)["rows"][1]
    assert alone == among
    assert alone["chair_s_ci"][0] < alone["chair_s"] < alone["chair_s_ci"][1]


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden cases are not here")
def test_golden_captions_through_the_command(tmp_path: Path) -> None:
    flags = ["--coco", str(GOLDEN / "annotations"), "--variant", "original", "--out", str(tmp_path)]
    assert evaluate.main(["--captions", str(GOLDEN / "captions.json"), *flags]) == 0
    sentences = json.loads((tmp_path / "metrics.json").read_text())["sentences"]
    expected = {
        (case["image_id"], case["caption"]): case["generated_nodes"]
        for case in json.loads((GOLDEN / "expected_original.json").read_text())["sentences"]
    }
    captions = json.loads((GOLDEN / "captions.json").read_text())
    assert [one["image_id"] for one in sentences] == [one["image_id"] for one in captions]
    assert [one["objects"] for one in sentences] == [
        expected[one["image_id"], one["caption"]] for one in captions
    ]
