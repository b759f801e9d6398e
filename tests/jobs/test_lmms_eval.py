"""The lmms-eval verb: its environment, results, failed requests and resumption.

A program of the same name and files stands for lmms-eval; the real one runs where LMMS_EVAL_PYTHON names its
Python (see docs/endpoint.md for what came).
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs import lmms_eval
from tests.support.paths import ROOT

PROGRAM = """
import json, pathlib, sys
config = dict(line.strip().split(": ", 1) for line in open(sys.argv[2]))
args = dict(pair.split("=", 1) for pair in config["model_args"].split(","))
print("asked", args["base_url"], args["model"])
if args["model"] == "crash":
    sys.exit("a task that is not there")
bad = "[LMMS_EVAL_REQUEST_FAILED after 3 retries] Connection refused"
answers = ["Yes.", bad if args["model"] == "flaky" else "No.", ""]
out = pathlib.Path(config["output_path"], "model")
out.mkdir(parents=True)
metrics = {"alias": "pope", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,none": 1, "f1_stderr,none": "N/A"}
metrics |= {"f1_stderr_clt,none": 0.2, "f1_stderr_clustered,none": "N/A"}
metrics["submission,none"] = None
(out / "1_results.json").write_text(json.dumps({"results": {config["tasks"]: metrics}}))
rows = [json.dumps({"filtered_resps": text}) for text in answers[:2]]
rows += [json.dumps({"resps": [[answers[2]]]})]
(out / f"1_samples_{config['tasks']}.jsonl").write_text("\\n".join(rows))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A package lmms-eval that uv can install without a network."""
    path = tmp_path_factory.mktemp("wheel") / "lmms_eval-0.7.3-py3-none-any.whl"
    info = "lmms_eval-0.7.3.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("lmms_eval/__init__.py", "")
        file.writestr("lmms_eval/__main__.py", PROGRAM)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lmms-eval\nVersion: 0.7.3\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return str(path)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("environment") / "lmms")


def main(wheel: str, environment: str, out: Path, *flags: str) -> int:
    given = ["--endpoint", "http://127.0.0.1:9/v1", "--packages", wheel, "--environment", environment]
    return lmms_eval.main([*given, "--out", str(out), *flags])


needs_uv = pytest.mark.skipif(shutil.which("uv") is None, reason="uv makes the environment")


@needs_uv
def test_results_of_all_tasks_and_models_in_one_table(wheel: str, environment: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = tmp_path / "data"
    (data / "org" / "name").mkdir(parents=True)
    flags = ["--tasks", "pope", "mmstar", "--models", "policy", "policy+search", "--data", str(data)]
    assert main(wheel, environment, out, *flags) == 0
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    expected = [(task, model) for task in ("pope", "mmstar") for model in ("policy", "policy+search")]
    assert [(row["task"], row["model"]) for row in rows[::2]] == expected
    counts = {"num_samples": 3, "num_failed": 0, "failure": None, "num_empty": 1}
    assert (
        rows[0] == {"model": "policy", "task": "pope", "metric": "acc", "value": 0.5, "stderr": 0.1} | counts
    )
    assert (rows[1]["metric"], rows[1]["value"], rows[1]["stderr"]) == ("f1", 1, 0.2)
    assert (out / "pope" / "policy" / "org" / "name").is_dir(), "data sets are found by their names"
    assert "| pope | acc | policy | 0.5 | 0.1 | 3 | 0 | 1 |" in (out / "table.md").read_text()
    assert "asked http://127.0.0.1:9/v1 policy" in (out / "pope" / "policy" / "log.txt").read_text()


@needs_uv
def test_failed_requests_are_no_answers_and_are_done_again(
    wheel: str, environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--tasks", "pope", "--models", "policy", "flaky"]
    assert main(wheel, environment, tmp_path / "out", *flags) == 1
    told = capsys.readouterr().err
    assert "refused: 1 of 3 requests of pope with flaky failed" in told and "Connection refused" in told
    assert not (tmp_path / "out" / "pope" / "flaky").exists()
    log = tmp_path / "out" / "pope" / "policy" / "log.txt"
    before = log.stat().st_mtime_ns
    assert main(wheel, environment, tmp_path / "out", *flags, "--max-failed-share", "0.5") == 2, (
        "another config"
    )
    assert main(wheel, environment, tmp_path / "out", *flags) == 1
    assert log.stat().st_mtime_ns == before, "what was done is not done again"


@needs_uv
def test_the_end_of_the_log_tells_why_it_failed(
    wheel: str, environment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(wheel, environment, tmp_path / "out", "--tasks", "pope", "--models", "crash") == 1
    assert "lmms-eval ended with status 1" in caplog.text and "a task that is not there" in caplog.text


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--tasks", "capabilities"], "mmvet needs a judge: give --judge URL"),
        (["--tasks", "mmbench_en_dev"], "mmbench_en_dev needs a judge"),
        (["--tasks", "pope", "--out", "s3://bucket/out"], "writes to folders of this machine only"),
    ],
)
def test_usage(flags: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--endpoint", "http://127.0.0.1:9/v1", "--out", str(tmp_path / "out")]
    assert lmms_eval.main([*given, *flags]) == 2
    assert problem in capsys.readouterr().err


def test_the_judge_and_both_keys_reach_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "ours")
    monkeypatch.setenv("JUDGE_API_KEY", "theirs")
    config = lmms_eval.LmmsEvalConfig(endpoint="http://here/v1", out="x", judge="http://judge/v1/")
    assert "api_key=ours" in lmms_eval._settings(config, "mmvet", "policy")["model_args"]
    variables = lmms_eval._variables(config, "mmvet")
    assert (variables["OPENAI_API_URL"], variables["OPENAI_API_KEY"]) == ("http://judge/v1", "theirs")
    path = lmms_eval._variables(config, "mmbench_en_dev")["OPENAI_API_URL"]
    assert path == "http://judge/v1/chat/completions"


def test_data_sets_of_the_world_have_the_forms_of_the_tasks(tmp_path: Path) -> None:
    import runpy

    import pyarrow.parquet as pq

    runpy.run_path(str(ROOT / "examples" / "lmms_eval_data.py"))["main"](str(tmp_path), 4)
    rows: dict[str, list[dict[str, Any]]] = {
        path.parent.name: pq.read_table(path).to_pylist() for path in tmp_path.rglob("*.parquet")
    }
    assert {name: len(one) for name, one in rows.items()} == dict.fromkeys(rows, 4) and len(rows) == 4
    assert [row["answer"] for row in rows["POPE"]] == ["yes", "no", "yes", "no"]
    for row in rows["MMBench"]:
        assert len({row[letter] for letter in "ABCD"}) == 4
