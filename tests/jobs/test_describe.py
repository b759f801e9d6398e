"""describe as a user runs it: each sentence as it is chosen, the tree, JSON, and what is refused."""

import json
from pathlib import Path

import pytest

import visvm
from jobs import describe
from tests.support import tiny
from visvm.world import coco_export


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in coco_export.make(tmp_path_factory.mktemp("d"), split="test", count=2)]


def test_sentences_are_printed_one_a_line(drawings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main([drawings[0], "--max-sentences", "3"]) == 0
    out = capsys.readouterr()
    caption = visvm.load().caption(drawings[0], max_sentences=3)
    assert out.out.splitlines() == [text.strip() for text in caption.sentences]
    assert "drawings of their own world" not in out.err


def test_the_trace_is_a_tree_of_candidates_values_and_choices(
    drawings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe.main(["--trace", "--max-sentences", "1", "--method", "prm", *drawings]) == 0
    out = capsys.readouterr().out
    assert all(path in out for path in drawings)
    assert out.count("sentence 1") == 2 and out.count("> ") == 2 and "0." in out


def test_json_has_a_line_for_each_image(drawings: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert describe.main([*drawings, "--json", "--search", "tests.support.own:TwoSentences"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == drawings
    for line in lines:
        assert line["method"] == "two_sentences" and len(line["sentences"]) <= 2
        assert line["caption"] == "".join(line["sentences"])
        assert len(line["trace"]) == len(line["values"]) and line["cost"]["num_value_calls"] > 0


def test_another_policy_is_greedy_and_the_worlds_warns_of_photos(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.image(1).pil.save(tmp_path / "photo.png")
    photo = str(tmp_path / "photo.png")
    flags = ["--json", "--max-new-tokens", "12"]
    assert describe.main([photo, *flags, "--policy", str(tiny_policy)]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["method"] == "greedy" and "note:" not in out.err
    assert describe.main([photo, *flags, "--method", "greedy"]) == 0
    assert "note: the embedded models know only drawings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "missing images"),
        (["missing.png"], "cannot read"),
        (["a.png", "--method", "beam"], "expected one of greedy"),
        (["a.png", "--method", "visvm", "--search", "a:B"], "not both"),
        (["a.png", "--scorer", "tests.support.own:number"], "int is not a scorer"),
        (["a.png", "--search", "no_such_module:Name"], "cannot be imported"),
        (["a.png", "--policy", "./missing"], "no such directory"),
        (["a.png", "--step-size", "0"], "step_size"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe.main(flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
