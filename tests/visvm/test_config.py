"""Configurations: where a value may come from, keys of earlier versions, errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from visvm.config import Config, load, renamed


class Scale(Config):
    max_images: int = 4


class Settings(Config):
    max_images: int = Field(8, ge=1)
    seconds_per_image: float | None = None
    scale: Scale = Scale()


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("max_images: 1\nseconds_per_image: 1\n")
    config = load(
        Settings, file, ["max_images=2", "scale.max_images=3"], max_images=4, seconds_per_image=None
    )
    assert config == Settings(max_images=4, seconds_per_image=1, scale=Scale(max_images=3))


def test_keys_of_earlier_versions_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("max_pictures: 2\nscale: {max_pictures: 3}\n")
    config = load(Settings, file, ["seconds_per_picture=0.5"])
    assert config == Settings(max_images=2, seconds_per_image=0.5, scale=Scale(max_images=3))
    assert renamed("max_pictures", Settings) == "max_images"
    assert renamed("num_pictures", Settings) == "num_pictures", "no such field under either name"


def test_mistakes_name_the_key_the_value_and_the_nearest_key() -> None:
    with pytest.raises(ValueError, match=r"max_image = 2: unknown key; did you mean max_images\?"):
        load(Settings, max_image=2)
    with pytest.raises(ValueError, match=r"scale\.max_imags = 2: unknown key; did you mean max_images\?"):
        load(Settings, None, ["scale.max_imags=2"])
    with pytest.raises(ValueError, match="max_images = 0: Input should be greater than or equal to 1"):
        load(Settings, max_images=0)
    with pytest.raises(ValueError, match="--set takes KEY=VALUE, got 'max_images'"):
        load(Settings, None, ["max_images"])
    with pytest.raises(ValueError, match="'max_images' is a value, not a section"):
        load(Settings, None, ["max_images=1", "max_images.x=1"])
