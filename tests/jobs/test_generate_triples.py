"""generate-triples as a user runs it: killed half way and started again, it gives what one run gives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from jobs import generate_triples
from jobs.pipeline.triples import triples
from jobs.runner.part_files import parts, read_rows
from tests.support import tiny
from tests.support.paths import ROOT
from visvm.schemas import ERRORS, ROLLOUTS, TRIPLES

NUM_IMAGES, NUM_PROMPTS = 40, 9


@pytest.fixture(scope="module")
def arguments(tiny_policy: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A job of 360 units, a file a batch, and an image that cannot be used."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(NUM_IMAGES):
        tiny.image(i).pil.save(folder / f"{i:03d}.png")
    (folder / "empty.jpg").write_bytes(b"")
    flags = {"images": folder, "policy": tiny_policy, "reward": tiny_clip, "prompts": "all", "seed": 3}
    flags |= {"max-new-tokens": 8, "batch-size": 18, "max-error-share": 0.1, "commit-seconds": 0}
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


@pytest.fixture(scope="module")
def finished(arguments: list[str], local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert generate_triples.main([*arguments, "--out", str(out)]) == 0
    return out


def kill_after_first_file(arguments: list[str], out: Path) -> None:
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-m", "jobs.generate_triples", *arguments, "--out", str(out)]
    driver = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    try:
        while not parts(out / "rollouts") and driver.poll() is None:
            time.sleep(0.01)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()


@pytest.mark.slow
@pytest.mark.ray
def test_killed_and_started_again_it_gives_the_same_rows(
    arguments: list[str], finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "killed"
    kill_after_first_file(arguments, out)
    written = [Path(path).stat().st_mtime_ns for path in parts(out / "rollouts")]
    assert 1 <= len(written) < NUM_IMAGES * NUM_PROMPTS // 18
    num_rows = sum(1 for _ in read_rows(out / "rollouts"))
    with caplog.at_level("INFO"):
        assert generate_triples.main([*arguments, "--out", str(out)]) == 0
    assert f"resuming after {num_rows} of" in caplog.text
    assert [Path(path).stat().st_mtime_ns for path in parts(out / "rollouts")][: len(written)] == written
    for folder in ("rollouts", "triples", "errors"):
        assert table_of(out / folder).equals(table_of(finished / folder)), "to the bit"


def table_of(folder: Path) -> pa.Table:
    table = pa.concat_tables([pq.read_table(path) for path in parts(folder)])
    keys = [name for name in ("id", "uri", "prompt", "response", "step") if name in table.column_names]
    return table.sort_by([(key, "ascending") for key in keys])


def rewards(out: Path) -> list[float]:
    return [row["reward"] for row in read_rows(out / "triples")]


@pytest.mark.ray
def test_every_unit_is_one_rollout_or_one_error(finished: Path) -> None:
    rollouts = list(read_rows(finished / "rollouts"))
    assert len(rollouts) == len({row["id"] for row in rollouts}) == NUM_IMAGES * NUM_PROMPTS
    assert {row["image_id"] for row in rollouts} == {f"{i:03d}.png" for i in range(NUM_IMAGES)}
    errors = list(read_rows(finished / "errors"))
    assert {(row["image_id"], row["stage"]) for row in errors} == {("empty.jpg", "decode")}
    assert len(errors) == NUM_PROMPTS
    for folder, schema in (("rollouts", ROLLOUTS), ("triples", TRIPLES), ("errors", ERRORS)):
        assert all(pq.read_schema(path).equals(schema) for path in parts(finished / folder))


@pytest.mark.ray
def test_metrics_count_what_is_written(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    rollouts = list(read_rows(finished / "rollouts"))
    responses = [response for row in rollouts for response in row["responses"]]
    assert metrics["num_images"] == NUM_IMAGES
    assert metrics["num_rollouts"] == len(rollouts)
    assert metrics["num_responses"] == len(responses) == 5 * len(rollouts)
    assert metrics["num_sentences"] == sum(len(response["sentences"]) for response in responses)
    assert metrics["num_triples"] == metrics["num_sentences"] == len(rewards(finished))
    assert metrics["num_errors"] == NUM_PROMPTS
    assert metrics["num_tokens"] == sum(response["num_tokens"] for response in responses)
    assert sum(metrics["finish_reasons"].values()) == len(responses)
    assert metrics["reward_mean"] == pytest.approx(sum(rewards(finished)) / len(rewards(finished)))


@pytest.mark.ray
def test_a_finished_folder_is_left_alone(arguments: list[str], finished: Path) -> None:
    before = (finished / "metrics.json").stat().st_mtime_ns
    assert generate_triples.main([*arguments, "--out", str(finished)]) == 0
    assert generate_triples.main([*arguments, "--out", str(finished), "--top-p", "0.5"]) == 2
    assert (finished / "metrics.json").stat().st_mtime_ns == before


def test_triples_are_a_rollouts_sentences_each_with_its_successor() -> None:
    rollout = {
        "image_id": "1",
        "uri": "1.png",
        "prompt": "?",
        "responses": [
            {"sentences": ["A.", " B.", " A."], "rewards": [0.1, 0.2, 0.1]},
            {"sentences": [], "rewards": []},
            {"sentences": ["C."], "rewards": [0.3]},
        ],
    }
    rows = list(triples(rollout))
    keys = ("response", "step", "sentence", "next_sentence", "reward")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        (0, 0, "A.", " B.", 0.1),
        (0, 1, " B.", " A.", 0.2),
        (0, 2, " A.", None, 0.1),
        (2, 0, "C.", None, 0.3),
    ]
    assert {(row["image_id"], row["uri"], row["prompt"]) for row in rows} == {("1", "1.png", "?")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "missing"], "no such file or folder"),
        (["--images", str(ROOT / "actors")], "no images in it"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
        (["--temperatures", "-1"], "temperatures"),
        (["--policy", "./missing"], "no such directory"),
        (["--reward", "nonsense"], "nonsense"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    flags: list[str],
    message: str,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert generate_triples.main([*arguments, "--out", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
