"""A finished run knows its inputs: other ones are taken in, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.finetune import FinetuneConfig
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, differences, stamps, stamps_below
from jobs.runner.run_folder import RunFolder
from visvm.config import Config, load


class Reader(Config):
    """A job that reads a folder."""

    folder: str
    out: str

    def inputs(self) -> Inputs:
        return Inputs(free=stamps_below(self.folder))


class Learner(Reader):
    """A job whose folder must stay as it is."""

    def inputs(self) -> Inputs:
        return Inputs(fixed=stamps_below(self.folder))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("1")
    return ["--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")]


def times(config: type[Config], words: list[str], fail: bool = False) -> tuple[int, int]:
    """Run a job; return its status and how many times it did its work."""
    done: list[Config] = []

    def work(given: Any) -> dict[str, Any]:
        done.append(given)
        Path(given.out, "result").write_text("so far")
        if fail:
            raise RuntimeError("a crash")
        return {}

    return run(config, work, words, doc=""), len(done)


@pytest.mark.parametrize("change", ["new", "other", "gone", "renamed"])
def test_a_job_runs_again_once_its_inputs_have_changed(change: str, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "in"
    assert times(Reader, words) == (0, 1)
    assert times(Reader, words) == (0, 0)
    if change == "new":
        (folder / "b").write_text("1")
    elif change == "other":
        (folder / "a").write_text("2")
    elif change == "gone":
        (folder / "a").unlink()
    else:
        (folder / "a").rename(folder / "b")
    assert times(Reader, words, fail=True) == (1, 1)  # and is not complete meanwhile
    assert times(Reader, words) == (0, 1)
    assert times(Reader, words) == (0, 0)


def test_a_complete_run_of_an_earlier_version_runs_again_where_that_takes_what_is_new(
    words: list[str], tmp_path: Path
) -> None:
    for config, again in ((Reader, 1), (Learner, 0)):
        given = [*words[:3], str(tmp_path / config.__name__)]
        assert times(config, given) == (0, 1)
        manifest = tmp_path / config.__name__ / "manifest.json"
        manifest.write_text(json.dumps({"complete": True, "files": {}}))
        (tmp_path / config.__name__ / "inputs.json").unlink(missing_ok=True)
        assert times(config, given) == (0, again)


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_training_refuses_other_inputs_by_name(
    is_complete: bool, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert times(Learner, words, fail=not is_complete) == (1 - is_complete, 1)
    (tmp_path / "in" / "a").write_text("other")
    (tmp_path / "in" / "b").write_text("1")
    assert times(Learner, words) == (2, 0)
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path}/in/b is new; {tmp_path}/in/a has changed. Choose another --out" in said
    (tmp_path / "in" / "b").unlink()
    (tmp_path / "in" / "a").unlink()
    assert times(Learner, words) == (2, 0)


def test_finetune_refuses_captions_that_were_added_to(tmp_path: Path) -> None:
    captions = tmp_path / "captions"
    captions.mkdir()
    (captions / "part-00000.parquet").write_bytes(b"first")
    config = load(FinetuneConfig, policy="world", captions=(str(captions),), out=str(tmp_path / "out"))
    with RunFolder.of(config) as folder:
        assert not folder.is_done()
        folder.finish({})
    (captions / "part-00001.parquet").write_bytes(b"second")
    with pytest.raises(ValueError, match=r"part-00001\.parquet is new"), RunFolder.of(config) as folder:
        folder.is_done()


def test_a_model_that_was_trained_again_is_another_input(tmp_path: Path) -> None:
    from jobs.caption import CaptionConfig

    photos, value = tmp_path / "photos", tmp_path / "value"
    for folder in (photos, value):
        folder.mkdir()
    (photos / "a.png").write_bytes(b"1")
    (value / "model.safetensors").write_bytes(b"1")
    config = load(
        CaptionConfig, images=str(photos), method="visvm", value=str(value), out=str(tmp_path / "out")
    )
    with RunFolder.of(config) as folder:
        assert not folder.is_done()
        folder.finish({})
    with RunFolder.of(config) as folder:
        assert folder.is_done()
    (value / "README.md").write_text("a card is no weight")
    with RunFolder.of(config) as folder:
        assert folder.is_done()
    (value / "model.safetensors").write_bytes(b"2")
    with pytest.raises(ValueError, match=r"model\.safetensors has changed"), RunFolder.of(config) as folder:
        folder.is_done()


def test_stamps_and_differences(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    found = stamps([f"{tmp_path}/a", f"{tmp_path}/none/b"])
    assert found[f"{tmp_path}/a"].startswith("1 bytes, ") and found[f"{tmp_path}/none/b"] == ""
    assert differences(found, found) == []
    assert differences({str(i): "" for i in range(9)}, {}) == [
        *("0 is gone", "1 is gone", "2 is gone"),
        "and 6 more",
    ]
