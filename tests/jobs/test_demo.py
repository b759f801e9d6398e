"""The demo: its configuration, its stages, and a run of everything at the smallest size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import world
from jobs.demo import DemoConfig
from jobs.workflow.loop import match
from jobs.workflow.stages import Stages
from visvm.config import load
from visvm.models import WORLD


def test_the_size_sets_what_is_not_given() -> None:
    small, full = load(DemoConfig), load(DemoConfig, size="full", num_test=777)
    assert full.num_train > small.num_train
    assert full.num_test == 777
    assert full.value_seeds == 3 and full.step_sizes == (1, 2, 4, 8, 16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sft": ["beam"]}, "beam"),
        ({"sft": ["reward_plus_future"]}, "among the methods"),
        ({"methods": ["greedy", "beam"]}, "'beam' is no row"),
        ({"methods": ["greedy", "prm"]}, "'visvm' is missing"),
        ({"methods": ["greedy", "prm", "visvm", "visvm_second_reward"]}, "one reward"),
        ({"centres": [0.9, 1.0]}, "validation"),
        ({"num_test": 5, "num_oracle": 6}, "some of the 5"),
        ({"value": {"epoch": 3}}, "epoch"),
        ({"finetune": {"learning_rate": -1}}, "learning_rate"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(DemoConfig, **given)


def test_the_centre_is_the_one_as_long_as_greedy_among_those_with_its_recall() -> None:
    greedy = {"recall": 0.6, "num_sentences": 7.0}
    short = {"recall": 0.5, "num_sentences": 7.0}
    near = {"recall": 0.61, "num_sentences": 7.4}
    long = {"recall": 0.7, "num_sentences": 9.0}
    assert match([short, near, long], greedy) is near
    assert match([short, short], greedy) is short


def test_a_finished_stage_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(str(tmp_path), 0, {})
    folder = stages.images("images", split="test", count=2)
    assert len(list(Path(folder, "images").iterdir())) == 2
    monkeypatch.setattr(world, "make", lambda config: pytest.fail("it ran again"))
    assert stages.images("images", split="test", count=2) == folder
    with pytest.raises(ValueError, match="another config"):
        stages.images("images", split="test", count=3)


def test_a_stage_that_failed_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = Stages(str(tmp_path), 0, {})
    with monkeypatch.context() as broken:
        broken.setattr(world, "make", lambda config: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stages.images("images", split="test", count=1)
    stages.images("images", split="test", count=1)
    assert stages.metrics("images")["num_images"] == 1


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(not WORLD.is_dir(), reason="the world's weights are not there")
def test_the_whole_loop(tmp_path: Path) -> None:
    from jobs.demo import main

    numbers = {"num-train": 8, "num-sft": 8, "num-test": 4, "num-validation": 4, "num-oracle": 2}
    flags = [part for name, number in numbers.items() for part in (f"--{name}", str(number))]
    flags += ["--centres", "0.9", "1.0", "--num-step-sizes", "2", "--step-sizes", "1", "2"]
    out = tmp_path / "demo"
    assert main(["--out", str(out), *flags]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    rows = {row["method"]: row for row in metrics["rows"]}
    assert set(rows) >= {"greedy", "best_of_30", "prm", "mcts", "visvm", "oracle", "sft_visvm"}
    assert rows["greedy"]["num_value_calls"] == 0 < rows["visvm"]["num_value_calls"]
    assert {"a", "b", "metric", "difference", "ci"} <= set(metrics["paired"][0])
    assert {"centre", "step_size"} <= set(metrics["curves"])
    assert "<svg" in (out / "report.html").read_text()
