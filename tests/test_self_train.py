"""Self-training: two rounds on random small models and pictures of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.self_train import SelfTrainConfig, main
from visvm.config import load


@pytest.mark.parametrize("given", [{"method": "beam"}, {"caption": {"step_sizes": 3}}, {"rounds": 0}])
def test_impossible_settings_are_refused_before_any_work(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        load(SelfTrainConfig, out="out", **given)


@pytest.mark.slow
@pytest.mark.ray
def test_two_rounds(tmp_path: Path, tiny_policy: Path, tiny_clip: Path, photos: Path) -> None:
    out = tmp_path / "out"
    models = ["--policy", str(tiny_policy), "--reward", str(tiny_clip), "--images", str(photos)]
    limits = [
        *("--set", "generate_triples.max_new_tokens=16", "--set", "generate_triples.max_error_share=0.5"),
        *("--set", "caption.max_new_tokens=16", "--set", "finetune.epochs=1"),
        *("--set", "train_value.epochs=1", "--set", "finetune.batch_size=4"),
    ]
    assert main(["--out", str(out), "--rounds", "2", *models, *limits]) == 0
    assert (out / "round-2/policy/model/config.json").exists()
    second = (out / "round-2/rollouts/config.yaml").read_text()
    assert f"policy: {out}/round-1/policy/model" in second
    assert json.loads((out / "metrics.json").read_text())["policy"] == f"{out}/round-2/policy/model"
