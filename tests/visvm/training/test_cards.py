"""Cards of models: metadata that the hub takes, and nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from visvm.training.cards import front_matter, label
from visvm.training.config import CardOptions


def card(policy: str, **options: object) -> ModelCard:
    fields = CardOptions.model_validate(options)
    return ModelCard(front_matter(policy, fields, tags=("reward-model",)) + "# Text\n")


def test_the_base_model_is_a_hub_id_and_licence_and_data_are_as_given() -> None:
    data = card("org/name-7b", license="apache-2.0", datasets=["org/photos"]).data.to_dict()
    assert data["base_model"] == "org/name-7b"
    assert (data["license"], data["datasets"]) == ("apache-2.0", ["org/photos"])
    assert {"visvm", "arxiv:2412.03704", "reward-model"} <= set(data["tags"])
    assert label("org/name-7b") == "org/name-7b"


@pytest.mark.parametrize("name", ["world", "s3://bucket/models/policy"])
def test_a_model_without_a_hub_id_has_no_base_model(name: str, s3: str) -> None:
    name = name.replace("s3://bucket", s3)
    assert "base_model" not in card(name).data.to_dict()
    assert label(name) in ("world", "policy")


def test_a_folder_is_named_by_what_its_own_card_says_and_never_by_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert "base_model" not in card(str(folder)).data.to_dict() and label(str(folder)) == "mine"
    (folder / "README.md").write_text("---\nbase_model: org/base\nlicense: mit\n---\n")
    data = card(str(folder)).data.to_dict()
    assert (data["base_model"], data["license"]) == ("org/base", "mit")
    assert card(str(folder), license="cc-by-4.0").data.to_dict()["license"] == "cc-by-4.0"
    assert str(tmp_path) not in str(card(str(folder)))
