"""Models whose weights are missing, of other shapes, not finite or cut off are refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_clip import make_clip
from visvm.models import check_policy
from visvm.policy import SharedPrefixPolicy
from visvm.reward import ClipScorer
from visvm.value import VisionValueModel

Weights = dict[str, torch.Tensor]


def copy(source: Path, target: Path, change: Callable[[Weights], None]) -> str:
    """Copy a model with its weights changed."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return str(target)


def key(weights: Weights, part: str) -> str:
    return next(name for name in weights if part in name)


def drop(weights: Weights) -> None:
    del weights[key(weights, "layers.0.mlp.down_proj")]


def reshape(weights: Weights) -> None:
    name = key(weights, "layers.0.mlp.down_proj")
    weights[name] = weights[name][:-1].contiguous()


def poison(weights: Weights) -> None:
    weights[key(weights, "layers.0.mlp.down_proj")][0, 0] = float("nan")


def overflow(weights: Weights) -> None:
    weights[key(weights, "layers.0.mlp.down_proj")][0, 0] = float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"weights are missing: .*layers\.0\.mlp\.down_proj"),
        (reshape, r"other shapes .*layers\.0\.mlp\.down_proj\.weight is \("),
        (poison, r"not finite: .*layers\.0\.mlp\.down_proj"),
        (overflow, r"not finite: .*layers\.0\.mlp\.down_proj"),
    ],
)
def test_a_policy_with_bad_weights_is_refused(
    change: Callable[[Weights], None], message: str, tiny_policy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SharedPrefixPolicy.from_pretrained(copy(tiny_policy, tmp_path / "bad", change))


def test_a_policy_whose_file_is_cut_off_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_policy, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot load the model .*cut"):
        SharedPrefixPolicy.from_pretrained(str(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("model.safetensors", None, r"no weights"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
        ("model.safetensors", b"\xff" * 100, "model.safetensors is damaged"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "part-2"}}', "part-2 is missing"),
        ("model.safetensors.index.json", b"[", "index.json is damaged"),
        ("tokenizer.json", None, "no tokenizer"),
    ],
)
def test_a_folder_that_is_not_whole_is_named_before_anything_starts(
    name: str, data: bytes | None, message: str, tiny_policy: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(tiny_policy, folder)
    assert check_policy(str(folder)) == str(folder)
    (folder / name).unlink(missing_ok=True)
    if data is not None:
        (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        check_policy(str(folder))


def test_a_cut_file_is_named_before_anything_starts(tiny_policy: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_policy, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: it has \d+ bytes"):
        check_policy(str(tmp_path / "cut"))


def test_a_value_model_without_its_head_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    VisionValueModel.from_policy(str(tiny_policy)).save_pretrained(tmp_path / "value")
    VisionValueModel.from_pretrained(str(tmp_path / "value"))

    def behead(weights: Weights) -> None:
        del weights["head.weight"]

    with pytest.raises(ValueError, match=r"weights are missing: head\.weight"):
        VisionValueModel.from_pretrained(copy(tmp_path / "value", tmp_path / "bad", behead))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("visual.proj"), r"visual\.proj"),
        (lambda weights: weights["visual.proj"].fill_(float("nan")), r"not finite: visual\.proj"),
    ],
    ids=["missing", "nan"],
)
def test_a_reward_model_with_bad_weights_is_refused(
    change: Callable[[Weights], None], message: str, tmp_path: Path
) -> None:
    folder = make_clip(tmp_path / "clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=message):
        ClipScorer.from_pretrained(str(folder))


def test_a_reward_model_whose_file_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = make_clip(tmp_path / "clip") / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot load the reward model"):
        ClipScorer.from_pretrained(str(file.parent))
