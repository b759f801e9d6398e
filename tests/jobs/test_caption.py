"""caption as a user runs it, and what it refuses before any work."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from jobs import caption
from jobs.runner.part_files import parts, read_rows
from visvm.config import load
from visvm.schemas import CAPTIONS
from visvm.value import VisionValueModel


@pytest.fixture(scope="module")
def value(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a value model with a random head."""
    torch.manual_seed(0)
    model = VisionValueModel.from_policy(str(tiny_policy))
    torch.nn.init.normal_(model.head.weight)
    folder = tmp_path_factory.mktemp("models") / "value"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(photos: Path, tiny_policy: Path, tiny_clip: Path, value: Path, tmp_path: Path) -> list[str]:
    flags = {"images": photos, "policy": tiny_policy, "reward": tiny_clip, "value": value}
    flags |= {"out": tmp_path / "out", "max-new-tokens": 20, "batch-size": 4}
    return [str(part) for name, value in flags.items() for part in (f"--{name}", value)]


@pytest.mark.ray
def test_captions_with_their_traces(arguments: list[str], tmp_path: Path) -> None:
    flags = ["--method", "visvm", "--temperatures", "0.5", "0.9", "--step-size", "2", "--centre", "0.1"]
    assert caption.main([*arguments, *flags]) == 0
    rows = sorted(read_rows(tmp_path / "out" / "captions"), key=lambda row: row["image_id"])
    assert [row["image_id"] for row in rows] == [f"{i:03d}.png" for i in range(8)]
    assert all(pq.read_schema(path).equals(CAPTIONS) for path in parts(tmp_path / "out" / "captions"))
    for row in rows:
        assert row["method"] == "visvm"
        assert row["caption"] == "".join(row["sentences"])
        assert all(len(step["candidates"]) == 5 for step in row["trace"])
        assert len(row["trace"]) == len(row["values"])
    errors = {row["image_id"]: row["reason"] for row in read_rows(tmp_path / "out" / "errors")}
    assert set(errors) == {"cut.png", "empty.jpg", "text.jpg"} and all(errors.values())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["num_captions"], metrics["num_images"], metrics["num_errors"]) == (8, 8, 3)
    assert metrics["num_value_calls"] > 0 and metrics["seconds_per_caption"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method", "beam"], "expected one of greedy"),
        (["--method", "visvm", "--search", "a:B"], "not both"),
        (["--search", "no_such_module:B"], "cannot be imported"),
        (["--search", "tests.support.own:number"], "expected a subclass"),
        (["--scorer", "tests.support.own:ShortestFirst"], "uses no scorer"),
        (["--method", "prm", "--scorer", "tests.support.own:Missing"], "cannot be imported"),
        (["--method", "prm", "--scorer", "tests.support.own:TwoSentences"], "no method score"),
        (["--method", "visvm", "--value", "./missing"], "no such directory"),
        (["--method", "reward_plus_future"], "predicts 'value'; this method needs 'future'"),
        (["--method", "prm", "--reward", "./missing"], "no such directory"),
        (["--step-size", "0"], "step_size"),
        (["--temperatures", "0"], "temperatures"),
        (["--prompts", "describe"], "prompts"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_2(
    flags: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert caption.main([*arguments, *flags]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_value_model_of_another_family_or_no_value_model_is_refused(
    arguments: list[str],
    tiny_policy: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.support import tiny

    other = tiny.save("llava_next", tmp_path_factory.mktemp("models") / "other")
    assert caption.main([*arguments, "--method", "visvm", "--policy", str(other)]) == 2
    assert "is a llava model, the policy" in capsys.readouterr().err
    assert caption.main([*arguments, "--method", "visvm", "--value", str(tiny_policy)]) == 2
    assert "not a value model" in capsys.readouterr().err


@pytest.mark.ray
def test_captions_are_those_of_the_front_door_and_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file and a glob of the world's images, a search and a scorer of one's own on Ray's workers."""
    import visvm
    from visvm.world import coco_export

    paths = coco_export.make(tmp_path / "world", split="test", count=3)
    out, flags = tmp_path / "out", ["--seed", "3", "--max-sentences", "4"]
    images = [paths[0], str(tmp_path / "world/images/*[12].png")]
    assert caption.main(["--images", *images, "--method", "visvm", "--out", str(out), *flags]) == 0
    captioner = visvm.load()
    expected = {Path(path).name: captioner.caption(path, seed=3, max_sentences=4).text for path in paths}
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert {line["image_id"]: line["caption"] for line in lines} == expected
    assert [tuple(line) for line in lines] == [caption.JSONL_KEYS] * 3
    assert all(f"{name}: {text.strip()}" in printed.out for name, text in expected.items())
    assert f"visvm show {out}" in printed.out and "drawings of their own" not in printed.err

    own = ["--search", "tests.support.own:TwoSentences", "--scorer", "tests.support.own:ShortestFirst"]
    assert caption.main(["--images", paths[0], *own, "--out", str(tmp_path / "own"), *flags]) == 0
    [row] = read_rows(tmp_path / "own" / "captions")
    assert row["method"] == "two_sentences"
    assert row["values"] == [-float(len(text.strip())) for text in row["sentences"]]


def test_a_list_of_one_is_that_one_as_in_older_configs() -> None:
    one, two = (
        load(caption.CaptionConfig, out="out", images=images) for images in (["photos"], ["a.png", "b.png"])
    )
    assert one.images == "photos" and two.images == ("a.png", "b.png")


def test_the_worlds_policy_is_told_of_photos_only(
    photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from visvm.world import coco_export

    drawing = coco_export.make(tmp_path, split="train", count=1)[0]
    with caplog.at_level("WARNING", logger="jobs.caption"):
        caption.note_strange_images("org/name", [str(photos / "000.png")])
        caption.note_strange_images("world", [drawing, str(photos / "empty.jpg")])
        assert caplog.messages == []
        caption.note_strange_images("world", [drawing, str(photos / "000.png")])
    assert "drawings of their own world" in caplog.messages[0]
