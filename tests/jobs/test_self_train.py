"""Self-training: two rounds on random small models and images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobs.runner.run_folder import read_json
from jobs.self_train import SelfTrainConfig, main, work
from jobs.workflow.rounds import choose_centre, reasons_to_stop
from jobs.workflow.stages import Stages
from visvm import storage
from visvm.config import load
from visvm.metrics import evaluate


@pytest.mark.parametrize(
    "given",
    [
        {"method": "beam"},
        {"caption": {"step_sizes": 3}},
        {"rounds": 0},
        {"export": {"max_pair": 3}},
        {"value": "carried", "train_value": {"kind": "head"}},
        {"early_stop": True, "images": "photos/"},
    ],
)
def test_impossible_settings_are_refused_before_any_work(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        load(SelfTrainConfig, out="out", **given)


def row(name: str, chair_s: float, recall: float, *, repetition: float = 0.0, objects: float = 5.0) -> Any:
    known = {"method": name, "chair_s": chair_s, "recall": recall, "repetition": repetition}
    return known | {"precision": 0.9, "num_objects": objects}


def test_the_centre_of_lowest_chair_that_reaches_the_recall_is_chosen() -> None:
    rows = [row("1", 0.1, 0.90), row("0.9", 0.2, 0.94), row("0.8", 0.3, 0.96)]
    assert choose_centre(rows, 0.93) == "0.9"
    assert choose_centre(rows, 0.99) == "0.8"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (row("b", 0.1, 0.93), []),
        (row("b", 0.3, 0.93), ["chair_s"]),
        (row("b", 0.1, 0.91), ["recall"]),
        (row("b", 0.1, 0.94, repetition=0.2), ["repetition"]),
        (row("b", 0.1, 0.94, objects=4.5), ["true objects a caption"]),
    ],
)
def test_a_round_is_not_taken_where_validation_is_worse(now: Any, told: list[str]) -> None:
    base, best = row("base", 0.5, 0.94, repetition=0.03), row("a", 0.2, 0.94)
    assert reasons_to_stop(now, best, base, load(SelfTrainConfig, out="out")) == told


class Recorded(Stages):
    """Stages that only note what they were asked for; every round gets better, the third repeats itself."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def run(self, name: str, work: Any, config_class: Any, options: Any) -> dict[str, Any]:
        self.asked.append((name, load(config_class, out=self.path(name), **options).model_dump()))
        if "rollouts" in name:
            return {"reward_mean": 0.4}
        if not name.endswith("evaluation"):
            return {}
        names = [given.partition("=")[0] for given in options["captions"]]
        return {"rows": [self._row(one) for one in names], "paired": []}

    def metrics(self, name: str) -> dict[str, Any]:
        return {"reward_mean": 0.4}

    def _row(self, name: str) -> dict[str, Any]:
        if not name.startswith("round_"):
            return row(name, 0.02 if name == "1" else 0.03, 0.9 if name == "1" else 0.95)
        number = int(name[-1])
        made = row(name, 0.5 - number / 10, 0.94, repetition=0.1 if number == 3 else 0.03)
        whole = evaluate({name: [{"image_id": 1, "caption": "A cat."}]}, {"1": frozenset({"cat"})})
        return whole["rows"][0] | made


def test_rounds_choose_centres_and_end_where_validation_is_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.self_train.Stages", Recorded)
    monkeypatch.setattr(Recorded, "asked", [])
    config = load(
        SelfTrainConfig,
        out=str(tmp_path),
        rounds=4,
        centres=(1.0, 0.9),
        early_stop=True,
        train_value={"kind": "head"},
        caption={"min_reward": 0.38},
        export={"base_share": 0.2},
    )
    metrics = work(config)
    assert (metrics["rounds_taken"], metrics["stopped_by"]) == (2, ["repetition"])
    assert metrics["policy"] == f"{tmp_path}/round-2/policy/model"
    asked = dict(Recorded.asked)
    captions = asked["round-2/captions"]
    assert captions["policy"] == f"{tmp_path}/round-1/policy/model"
    assert captions["value"] == captions["reward"] == f"{tmp_path}/round-2/value/model"
    assert captions["centre"] == pytest.approx(0.9 * 0.4)  # the only one that reaches the base's recall
    assert asked["round-2/data"]["base"] == (f"{tmp_path}/round-0/train",)
    assert asked["round-2/policy"]["captions"] == (f"{tmp_path}/round-2/data",)
    assert "round-4/captions" not in asked
    assert "Repeated sentences" in (tmp_path / "report.html").read_text()


def test_whole_captions_are_compared_with_greedy_ones_and_a_value_model_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.self_train.Stages", Recorded)
    monkeypatch.setattr(Recorded, "asked", [])
    config = load(SelfTrainConfig, out=str(tmp_path), rounds=2, objective="dpo", value="carried")
    assert work(config)["rounds_taken"] == 2
    asked = dict(Recorded.asked)
    assert asked["round-2/captions"]["value"] == f"{tmp_path}/round-1/value/model"
    assert "round-2/rollouts" not in asked
    assert asked["round-2/data"]["rejected"] == (f"{tmp_path}/round-2/greedy",)
    assert asked["round-2/policy"]["objective"] == "dpo"


@pytest.fixture(params=["here", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder of this machine, then one of a bucket."""
    return f"{tmp_path if request.param == 'here' else request.getfixturevalue('s3')}/out"


@pytest.mark.slow
@pytest.mark.ray
def test_two_rounds(out: str, tiny_policy: Path, tiny_clip: Path, photos: Path) -> None:
    models = ["--policy", str(tiny_policy), "--reward", str(tiny_clip), "--images", str(photos)]
    limits = [
        *("--set", "generate_triples.max_new_tokens=48", "--set", "generate_triples.max_error_share=0.5"),
        *("--set", "caption.max_new_tokens=24", "--set", "finetune.epochs=1"),
        *("--set", "train_value.epochs=1", "--set", "finetune.batch_size=4"),
    ]
    assert main(["--out", out, "--rounds", "2", *models, *limits]) == 0
    assert storage.is_file(f"{out}/round-2/policy/model/config.json")
    second = storage.read(f"{out}/round-2/rollouts/config.yaml").decode()
    assert f"policy: {out}/round-1/policy/model" in second
    assert read_json(f"{out}/metrics.json")["policy"] == f"{out}/round-2/policy/model"
