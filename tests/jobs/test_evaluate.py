"""The evaluate job: the files it takes, the figures it writes, what it says of wrong input."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import evaluate
from jobs.inputs.caption_files import read_rows
from tests.support.paths import SHARED_DATA
from tests.visvm.metrics.test_chair import GOLDEN, annotations
from visvm.metrics import Resampling
from visvm.metrics import evaluate as judge
from visvm.metrics.coco import Annotations
from visvm.schemas import CAPTIONS

CASES = SHARED_DATA / "cases"
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


ROWS = [{"image_id": 7, "caption": "A dog and a cat."}, {"image_id": 8, "caption": "Grass."}]
LINES = "\n".join(map(json.dumps, ROWS)) + "\n"


@pytest.mark.parametrize(
    "data",
    [
        LINES.encode(),
        gzip.compress(json.dumps(ROWS).encode(), mtime=0),
        gzip.compress(LINES.encode(), mtime=0),
        json.dumps({"annotations": ROWS, "info": {}}).encode(),
        ("\ufeff" + json.dumps(ROWS)).encode(),
        json.dumps(ROWS).encode("utf-16"),
        LINES.encode("utf-16-le"),
        json.dumps([{"question_id": 1, "image_id": 7.0, "text": "A dog and a cat."}, ROWS[1]]).encode(),
        json.dumps([{"image": "COCO_7.jpg", "text": "Is it?", "answer": "A dog, a cat."}, ROWS[1]]).encode(),
        json.dumps([{"image_id": r"C:\x\COCO_7", "caption": "A dog, a cat."}, ROWS[1]]).encode(),
    ],
)
@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl", "captions.parquet", "captions"])
def test_captions_are_read_by_their_content(tmp_path: Path, data: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(data)
    rows = read_rows(str(tmp_path / name))
    assert [row["caption"].replace(" and", ",") for row in rows] == ["A dog, a cat.", "Grass."]
    known = Annotations(annotations(tmp_path)).resolve(row["image_id"] for row in rows)
    assert list(known.values()) == [7, 8]


def test_a_parquet_file_needs_no_suffix_and_no_columns_of_ours(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["7", "8"], "text": ["A dog.", "Grass."], "x": [1, 2]}), tmp_path / "c")
    assert [row["caption"] for row in read_rows(str(tmp_path / "c"))] == ["A dog.", "Grass."]


def test_a_broken_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "captions.jsonl"
    for end, problem in (("\n{", "line 4: neither JSON"), ("3", "line 3: expected an object")):
        file.write_text(LINES + end)
        run(tmp_path, file, code=2)
        assert problem in capsys.readouterr().err


def test_one_image_under_several_names_is_one_image(tmp_path: Path) -> None:
    names = [7, 7.0, "7", "007", "COCO_7.jpg", "val/COCO_7"]
    rows = [{"image_id": name, "caption": "A dog."} for name in names]
    [row] = run(tmp_path, write(tmp_path / "captions.json", rows))["rows"]
    assert (row["num_images"], row["num_captions"], row["chair_s"]) == (1, 6, 0)


def test_methods_are_compared_on_the_images_of_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = write(tmp_path / "part.json", BAD[:1])
    metrics = run(tmp_path, f"my_Model={write(tmp_path / 'bad.json', BAD)}", f"part={part}")
    assert metrics["num_images_left_out"] == {"my_Model": 1}
    assert "compared on the 1 in common" in caplog.text
    assert {row["num_images"] for row in metrics["rows"]} == {1}
    whole, some = metrics["rows"]
    assert whole | {"method": "part"} == some
    lines = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert lines[0].startswith("| method | n | CHAIRs |")
    assert lines[2].startswith("| my_Model | 1 | 100.0 [100.0, 100.0] |")
    assert any(line.startswith("| part - my_Model |") for line in lines)
    [first, second] = csv.DictReader((tmp_path / "out" / "table.csv").open())
    assert (first["method"], second["method"]) == ("my_Model", "part")
    assert (first["chair_s"], first["chair_s_low"], first["mean_num_words"]) == ("1.0", "1.0", "5.0")


def test_methods_without_a_common_image_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halves = [f"{name}={write(tmp_path / name, [row])}" for name, row in zip("ab", GOOD, strict=True)]
    run(tmp_path, *halves, code=2)
    assert "no image has a caption of each of a, b" in capsys.readouterr().err


def test_figures_say_whether_they_are_means_or_totals(tmp_path: Path) -> None:
    [row] = run(tmp_path, run_folder(tmp_path / "search", GOOD))["rows"]
    assert (row["mean_num_generated_tokens"], row["total_num_generated_tokens"]) == (10, 20)
    assert (row["mean_seconds"], row["total_seconds"]) == (0.5, 1.0)
    assert (row["mean_num_sentences"], row["total_num_sentences"]) == (1.5, 3)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
@pytest.mark.parametrize("name", sorted(path.name for path in (CASES / "caption-files").glob("*.json*")))
def test_files_of_other_programs(tmp_path: Path, name: str) -> None:
    flags = [
        "--coco",
        str(CASES / "caption-files" / "coco"),
        "--out",
        str(tmp_path),
        "--num-resamples",
        "100",
    ]
    status = evaluate.main(["--captions", str(CASES / "caption-files" / name), *flags])
    assert status == (2 if name in ("nan_caption.json", "none_caption.json") else 0)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the shared cases")
def test_annotations_with_ids_of_another_type_give_the_same_figures(tmp_path: Path) -> None:
    found = []
    for coco in ("same", "int_images_str_annotations"):
        place = CASES / "chair-id-types"
        flags = ["--coco", str(place / coco), "--out", str(tmp_path / coco), "--num-resamples", "100"]
        assert evaluate.main(["--captions", str(place / "captions.json"), *flags]) == 0
        found.append(json.loads((tmp_path / coco / "metrics.json").read_text())["rows"])
    assert found[0] == found[1]
    assert (found[0][0]["chair_s"], found[0][0]["recall"]) == (0, 1)


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
    assert "visvm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("captions", "problem"),
    [
        ([{"image_id": 7}], "captions.json [0]: expected a caption as text under one of caption, answer"),
        ([{"image_id": None, "caption": "A"}], "[0]: an image id must be a whole number or text, got None"),
        ([{"image_id": 7, "caption": ["A"]}], "[0]: expected a caption as text"),
        ([{"image_id": 7, "caption": float("nan")}], "[0]: expected a caption as text"),
        ({"annotations": [{"image_id": 7, "caption": None}]}, "annotations[0]: expected a caption as text"),
        (["A cat"], "[0]: expected an object"),
        ({"7": "A cat"}, "expected one of image_id, image"),
        ("A cat", 'expected a list of objects, one object a line, or {"annotations": [...]}'),
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
