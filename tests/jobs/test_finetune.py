"""The finetune job: bad usage, two workers, a failure and its resumption, a policy that loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from jobs import env, finetune
from tests.visvm.training.test_sft import captions_table, make_examples
from visvm.config import load


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the caption job leaves: captions/ with parquet files, of twelve images beside it."""
    folder = tmp_path_factory.mktemp("caption")
    (folder / "captions").mkdir()
    pq.write_table(captions_table(make_examples(folder, 12)), folder / "captions" / "part-0.parquet")
    return folder


@pytest.fixture
def command(tiny_policy: Path, run_folder: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*flags: str, **given: Any) -> int:
        settings = {"policy": tiny_policy, "captions": run_folder, "out": tmp_path / "out", "device": "cpu"}
        words = [word for key, value in (settings | given).items() for word in (f"--{key}", str(value))]
        return finetune.main([*words, *flags])

    return call


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--captions", "/nowhere"], "cannot read captions from /nowhere"),
        (["--policy", "/nowhere"], "/nowhere"),
        (["--batch-size", "8", "--micro-batch-size", "3"], "multiple of micro_batch_size"),
        (["--num-workers", "3", "--min-workers", "1"], "multiple of micro_batch_size x workers = 12"),
        (["--deepspeed", "/nowhere.json"], "cannot read DeepSpeed config"),
        (["--epochs", "-1"], "epochs"),
        (["--set", "epoch=1"], "unknown key"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert command(*flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0


def test_gone_images_are_refused_before_anything_starts(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "captions").mkdir()
    pq.write_table(captions_table(make_examples(tmp_path, 3)), tmp_path / "captions" / "0.parquet")
    (tmp_path / "1.png").unlink()
    assert command("--max-error-share", "0.3", captions=tmp_path) == 1
    for number in (0, 2):
        (tmp_path / f"{number}.png").unlink()
    assert command(captions=tmp_path) == 2
    assert f"none of the 3 images can be used, e.g. {tmp_path}/0.png: no such" in capsys.readouterr().err


def test_the_world_learns_at_its_own_rate() -> None:
    given = {"captions": ["x"], "out": "y"}
    assert load(finetune.FinetuneConfig, policy="world", **given).learning_rate == 5e-4
    assert load(finetune.FinetuneConfig, policy="other", **given).learning_rate == 1e-6


def test_env_tells_versions_and_devices(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://secret.host:10001")
    assert env.main(["--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["packages"]["torch"] == torch.__version__.split("+")[0]
    assert facts["devices"]["cpu_cores"] >= 1 and facts["ray"]["would"] == "attach"
    assert env.main([]) == 0
    text = capsys.readouterr().out
    assert "ray" in text and "secret.host" not in text
