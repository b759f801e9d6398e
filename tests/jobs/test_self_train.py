"""Self-training: two rounds on random small models and images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.runner.run_folder import read_json
from jobs.self_train import SelfTrainConfig, main
from visvm import storage
from visvm.config import load


@pytest.mark.parametrize("given", [{"method": "beam"}, {"caption": {"step_sizes": 3}}, {"rounds": 0}])
def test_impossible_settings_are_refused_before_any_work(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        load(SelfTrainConfig, out="out", **given)


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
