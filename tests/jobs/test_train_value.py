"""The train-value job: bad usage, workers, a killed worker and the run that goes on after it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import visvm
from jobs import train_value
from jobs.runner.command import parse
from jobs.runtime import ray_setup
from tests.support import tiny
from tests.support.killing import kill_a_worker
from visvm.config import load
from visvm.images import load as load_image
from visvm.records import Question
from visvm.schemas import ROLLOUTS, TRIPLES
from visvm.training.captions import split
from visvm.training.rollouts import from_rows
from visvm.training.value_loop import ValueTrainer, build
from visvm.value import ValueScorer

WORDS = ("A dog sits on a red bench.", "A cat sleeps under the table.", "The sky is blue.", "A cup.")
SETTINGS = {"epochs": 8, "batch_size": 3, "micro_batch_size": 2, "learning_rate": 1e-3, "save_steps": 2}


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What generate-triples leaves: rollouts/ of eleven images, which two workers cannot halve."""
    folder = tmp_path_factory.mktemp("triples")
    rng, rows = np.random.default_rng(0), []
    for i in range(11):
        tiny.image(i).pil.save(folder / f"{i:02d}.png")
        image = load_image(str(folder / f"{i:02d}.png"))
        names = {"id": f"{i}-p", "image_id": image.id, "uri": image.uri, "prompt": "Describe."}
        responses = [response(rng) for _ in range(3)]
        rows.append({**names, "content_hash": image.content_hash, "responses": responses})
    (folder / "rollouts").mkdir()
    for part, some in enumerate((rows[:6], rows[6:])):
        table = pa.Table.from_pylist(some, schema=ROLLOUTS)
        pq.write_table(table, folder / "rollouts" / f"part-{part:05d}.parquet")
    return folder


def response(rng: np.random.Generator) -> dict[str, Any]:
    order = rng.permutation(4)[: rng.integers(1, 5)]
    sentences = [WORDS[j] for j in order]
    rewards = [0.3 if j == 0 else 0.1 + 0.01 * rng.random() for j in order]
    known = {"temperature": 0.0, "seed": 0, "num_tokens": 9, "finish_reason": "stop"}
    return {**known, "text": " ".join(sentences), "sentences": sentences, "rewards": rewards}


def command(policy: Path, rollouts: Path, out: Path, *flags: str, **settings: Any) -> list[str]:
    given = {"policy": policy, "rollouts": rollouts, "out": out, "device": "cpu", **settings}
    return [*(w for key, value in given.items() for w in ("--" + key.replace("_", "-"), str(value))), *flags]


def write(folder: Path, table: pa.Table) -> str:
    folder.mkdir()
    pq.write_table(table, folder / "part-00000.parquet")
    return str(folder)


def mistakes(folder: Path) -> list[tuple[list[str], str]]:
    """Flags, and what the one line about them says."""
    (folder / "none").mkdir()
    (folder / "text").mkdir()
    (folder / "text" / "a.parquet").write_text("not parquet")
    return [
        (["--rollouts", "/nowhere"], "cannot read rollouts from /nowhere"),
        (["--rollouts", str(folder / "none")], "no parquet files in it"),
        (["--rollouts", str(folder / "text")], "cannot read rollouts"),
        (["--rollouts", write(folder / "empty", ROLLOUTS.empty_table())], "no rollouts in it"),
        (["--rollouts", write(folder / "other", TRIPLES.empty_table())], "responses"),
        (["--policy", "/nowhere"], "/nowhere"),
        (["--policy", str(folder)], "cannot read a model"),
        (["--deepspeed", "/nowhere.json"], "cannot read DeepSpeed config"),
        (["--gamma", "1"], "gamma"),
        (["--set", "gama=0.9"], "gama = 0.9: unknown key"),
        (["--set", "terminal=false", "--state", "prefix"], "terminal"),
        (["--save-steps", "2.5"], "save_steps"),
        (["--min-workers", "2"], "min_workers = 2 is more than num_workers = 1"),
        (["--num-workers", "2", "--min-workers", "1", "--set", "deepspeed={}"], "fits one number of workers"),
    ]


def test_bad_usage_is_one_line_and_status_2_before_ray_starts(
    tiny_policy: Path, rollouts: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray_setup, "start", refuse)
    for i, (flags, message) in enumerate(mistakes(tmp_path)):
        assert train_value.main(command(tiny_policy, rollouts, tmp_path / f"out{i}", *flags)) == 2, flags
        error = capsys.readouterr().err.strip()
        assert message in error and error.count("\n") == 0, error


def test_rollouts_whose_images_are_gone_are_refused(
    tiny_policy: Path, rollouts: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = [row for file in (rollouts / "rollouts").iterdir() for row in pq.read_table(file).to_pylist()]
    for num_gone, status in ((len(rows), 2), (8, 1)):
        moved = [{**row, "uri": f"/gone/{i}.png"} if i < num_gone else row for i, row in enumerate(rows)]
        folder = write(tmp_path / str(num_gone), pa.Table.from_pylist(moved, schema=ROLLOUTS))
        assert train_value.main(command(tiny_policy, Path(folder), tmp_path / f"out{num_gone}")) == status
    assert "none of the 11 images can be used, e.g. /gone/" in capsys.readouterr().err


def test_the_world_learns_at_its_own_rate() -> None:
    given = {"rollouts": ["x"], "out": "y"}
    assert load(train_value.TrainValueConfig, policy="world", **given).learning_rate > 1e-4
    assert load(train_value.TrainValueConfig, policy="other", **given).learning_rate == 1e-5


def test_a_flag_of_a_list_that_is_given_twice_adds() -> None:
    flags = ["--policy", "world", "--rollouts", "a", "--rollouts", "b", "c", "--out", "x"]
    assert parse(train_value.TrainValueConfig, flags, doc="").rollouts == ("a", "b", "c")


def plain_run(policy: Path, folder: Path) -> tuple[ValueTrainer, list[dict[str, Any]]]:
    """The same training in this process: one worker, no Ray."""
    rows = [
        row for file in sorted((folder / "rollouts").iterdir()) for row in pq.read_table(file).to_pylist()
    ]
    config = load(train_value.TrainValueConfig, policy="x", rollouts=["x"], out="x", **SETTINGS)
    part, held_out = split(from_rows(rows), config.held_out)
    trainer = ValueTrainer(
        build(str(policy), part, config), config, train=part, held_out=held_out, device=torch.device("cpu")
    )
    curve: list[dict[str, Any]] = []
    trainer.run(log=curve.append, checkpoint=lambda: None)
    return trainer, curve


def check_equal(metrics: dict[str, Any], trainer: ValueTrainer, curve: list[dict[str, Any]]) -> None:
    losses = [entry["td_loss"] for entry in curve if "td_loss" in entry]
    assert [entry["step"] for entry in metrics["curve"]] == list(range(1, len(losses) + 1))
    assert [entry["td_loss"] for entry in metrics["curve"]] == pytest.approx(losses, rel=1e-3)
    assert metrics["held_out"]["td_loss"] == pytest.approx(trainer.evaluate()["td_loss"], rel=1e-2)


@pytest.mark.ray
def test_a_head_is_trained_from_rollouts(tiny_policy: Path, rollouts: Path, tmp_path: Path) -> None:
    out = tmp_path / "head"
    assert train_value.main(command(tiny_policy, rollouts, out, kind="head", held_out=0.3)) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["num_images"] == 11
    assert {"prefix", "sentence"} < set(metrics["held_out"])
    captioner = visvm.load(policy=str(tiny_policy), value=str(out / "model"), max_new_tokens=12)
    assert captioner.caption(tiny.image(0).pil, method="visvm").cost.num_value_calls == 0
    assert "fingerprint" in (out / "model" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_two_workers_killed_and_resumed_equal_one_undisturbed(
    tiny_policy: Path, rollouts: Path, tmp_path: Path, strategy: str
) -> None:
    out = tmp_path / "out"
    words = command(tiny_policy, rollouts, out, num_workers=2, **SETTINGS)
    if strategy == "zero3":
        config = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
        (tmp_path / "zero3.json").write_text(json.dumps(config))
        words += ["--deepspeed", str(tmp_path / "zero3.json")]
    at: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(out, at))
    killer.start()
    if strategy == "zero3":  # a run that may not fail goes on when it is started again
        words += ["--max-failures", "0"]
        assert train_value.main(words) == 1
    assert train_value.main(words) == 0
    killer.join()

    metrics = json.loads((out / "metrics.json").read_text())
    trainer, curve = plain_run(tiny_policy, rollouts)
    assert 0 < at[0] < len(curve), "it was cut off in the middle"
    check_equal(metrics, trainer, curve)
    assert metrics["num_images"] == 10 and metrics["num_held_out_images"] == 1
    question = Question(tiny.image(0), "", (), WORDS, (False, False, False, True))
    ours, theirs = ValueScorer.from_pretrained(str(out / "model")), ValueScorer(trainer.model)
    assert ours.score([question])[0] == pytest.approx(theirs.score([question])[0], abs=2e-2)
    card = (out / "model" / "README.md").read_text()
    assert f"`{tiny_policy.name}`" in card and "explained variance" in card
    assert str(tiny_policy) not in card and str(tmp_path) not in card, "paths of this machine"
    assert list((out / "tensorboard").iterdir())
    assert train_value.main(words) == 0, "a complete run is left as it is"
