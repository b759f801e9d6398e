"""`--push-to-hub` against a hub on loopback, and the cards of run folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

from jobs.runner import data_card
from jobs.runner.command import run
from jobs.runner.hub import HubOptions
from tests.support.hub import TOKEN, Hub, loopback
from visvm import storage
from visvm.config import Place

COMMANDS = ["--push-to-hub", "org/captions"]


class Config(HubOptions):
    out: Place


def work(config: Config) -> dict[str, int]:
    folder = Path(config.out, "captions")
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"caption": ["A cup."]}), folder / "part-00000.parquet")
    return {"num_captions": 1}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with loopback() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield one


def test_tables_are_pushed_as_a_private_dataset_and_again_when_the_run_is_complete(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--out", str(tmp_path / "run"), *COMMANDS]
    assert run(Config, work, argv, doc="") == 0
    assert f"hub:    {hub.url}" in capsys.readouterr().out
    files = hub.files["datasets", "org/captions"]
    assert set(files) == {"README.md", "metrics.json", "captions/part-00000.parquet"}
    assert hub.private["org/captions"] and not any(str(tmp_path).encode() in data for data in files.values())
    files.clear()
    assert run(Config, work, argv, doc="") == 0
    assert "README.md" in files


def test_a_model_is_pushed_as_one(hub: Hub, tmp_path: Path) -> None:
    def train(config: Config) -> dict[str, int]:
        with storage.new_folder(storage.join(config.out, "model")) as folder:
            (folder / "config.json").write_text("{}")
            (folder / "README.md").write_text("---\nbase_model: org/base\n---\n")
        return {}

    assert run(Config, train, ["--out", str(tmp_path / "run"), "--push-to-hub", "org/value"], doc="") == 0
    assert set(hub.files["models", "org/value"]) == {"config.json", "README.md"}


def test_the_hub_refuses_a_card_that_names_a_path(hub: Hub, tmp_path: Path) -> None:
    def train(config: Config) -> dict[str, int]:
        with storage.new_folder(storage.join(config.out, "model")) as folder:
            (folder / "README.md").write_text(f"---\nbase_model: {tmp_path}\n---\n")
        return {}

    assert run(Config, train, ["--out", str(tmp_path / "run"), "--push-to-hub", "org/value"], doc="") == 2
    assert not hub.files["models", "org/value"]


def test_who_is_not_logged_in_hears_it_before_the_work(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert run(Config, work, ["--out", str(tmp_path / "run"), *COMMANDS], doc="") == 2
    assert "hf auth login" in capsys.readouterr().err and not hub.files
    assert not (tmp_path / "run" / "captions").exists()
    assert run(Config, work, ["--out", str(tmp_path), "--push-to-hub", "no slash"], doc="") == 2


def test_the_card_of_a_run_names_each_table(tmp_path: Path) -> None:
    for name in ("rollouts", "errors"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"a": [1]}), tmp_path / name / "part-00000.parquet")
    data_card.write(str(tmp_path))
    head = yaml.safe_load((tmp_path / "README.md").read_text().split("---")[1])
    assert head["configs"] == [
        {"config_name": "rollouts", "data_files": "rollouts/*.parquet", "default": True},
        {"config_name": "errors", "data_files": "errors/*.parquet"},
    ]
    data_card.write(str(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()
