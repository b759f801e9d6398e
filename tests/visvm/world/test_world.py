"""The embedded world: exact truth, deterministic images, real model classes."""

from __future__ import annotations

import functools
import json
import random

import numpy as np
import pytest
from PIL import Image

from jobs.world import main
from visvm.metrics.chair import mentions
from visvm.world import (
    clip_training,
    coco_export,
    exact,
    rendering,
    scenes,
    tokens,
    writer,
)
from visvm.world.rendering import image, is_drawing
from visvm.world.scenes import SCENES, Layout, layout


def test_an_image_depends_on_split_and_index_alone() -> None:
    first = [rendering.draw(layout("test", index)) for index in (0, 7)]
    again = [rendering.draw(layout("test", index)) for index in (7, 0)]
    np.testing.assert_array_equal(first[0], again[1])
    np.testing.assert_array_equal(first[1], again[0])
    assert not np.array_equal(first[0], rendering.draw(layout("validation", 0)))


def test_objects_are_distinct_and_stand_in_distinct_cells() -> None:
    for index in range(200):
        one = layout("train", index)
        assert 4 <= len(set(one.names)) == len(one.objects) <= 7
        assert len({cell for _, cell in one.objects}) == len(one.objects)


def test_a_sprite_is_drawn_inside_its_box_and_nowhere_else() -> None:
    one = layout("train", 3)
    empty = rendering.draw(Layout(one.split, one.index, one.scene, ()))
    changed = (rendering.draw(one) != empty).any(-1)
    for left, top, side in rendering.boxes(one):
        assert changed[top : top + side, left : left + side].mean() > 0.05
        changed[top : top + side, left : left + side] = False
    assert not changed.any()


def test_the_second_world_has_images_ids_and_a_writer_of_its_own() -> None:
    one = layout("train2", 5)
    assert one.image_id == 4_000_005
    assert scenes.layout_of(one.image_id) == one
    assert one.objects != layout("train", 5).objects
    assert max(len(layout("test2", index).objects) for index in range(100)) == 8
    rates = (None, writer.SECOND_RATES, writer.DEFAULT_RATES)
    own, second, first = (
        [writer.caption(one, random.Random(seed), given) for seed in range(20)] for given in rates
    )
    assert own == second != first


def test_splits_and_indices_are_checked() -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        layout("dev", 0)
    with pytest.raises(ValueError, match="999999"):
        layout("train", 1_000_000)


def test_the_writer_names_only_objects_of_the_image_or_of_its_scene() -> None:
    for index in range(2000):
        one = layout("train", index)
        sentences = writer.caption(one, random.Random(index))
        mentioned = {name for sentence in sentences for name in sentence.names}
        assert mentioned <= set(one.names) | set(SCENES[one.scene])
        assert all(set(s.names) <= set(one.names) for s in sentences if s.kind in ("opening", "summary"))
        assert 6 <= len(sentences) <= 12


def test_located_sentences_tell_the_true_place() -> None:
    places = {place: cell for cell, place in enumerate(writer.PLACES)}
    for index in range(100):
        one = layout("train", index)
        where = dict(one.objects)
        for sentence in writer.caption(one, random.Random(index)):
            place = next((p for p in places if sentence.text.endswith(f"{p}.")), None)
            if sentence.kind == "located" and place and sentence.names[0] in where:
                assert where[sentence.names[0]] == places[place]


def test_images_are_exported_as_a_coco_folder(tmp_path) -> None:
    status = main(["make", "--split", "test", "--count", "3", "--start", "5", "--out", str(tmp_path)])
    assert status == 0
    instances = json.loads((tmp_path / "instances_test.json").read_text())
    captions = json.loads((tmp_path / "captions_test.json").read_text())
    assert [image["id"] for image in instances["images"]] == [3_000_005, 3_000_006, 3_000_007]
    assert len(captions["annotations"]) == 3
    names = {category["id"]: category["name"] for category in instances["categories"]}
    for index, row in enumerate(instances["images"], start=5):
        pixels = np.asarray(Image.open(tmp_path / "images" / row["file_name"]))
        np.testing.assert_array_equal(pixels, rendering.draw(layout("test", index)))
        own = [a for a in instances["annotations"] if a["image_id"] == row["id"]]
        assert tuple(names[a["category_id"]] for a in own) == layout("test", index).names


def test_every_category_has_a_coco_id_and_a_sprite() -> None:
    assert set(coco_export.COCO_IDS) == set(scenes.CATEGORIES)
    for size, array in rendering.sprites().items():
        assert array.shape == (len(scenes.CATEGORIES), size, size, 4)
        assert (array[..., 3].mean((1, 2)) > 10).all()


def test_bad_usage_is_one_line_and_status_2(tmp_path, capsys) -> None:
    assert main(["make", "--split", "dev", "--out", str(tmp_path)]) == 2
    assert "split" in capsys.readouterr().err
    assert main(["grow"]) == 2
    assert main(["make", "--start", "999999", "--count", "2", "--out", str(tmp_path)]) == 2


def test_the_exact_reward_counts_true_and_false_objects() -> None:
    one = next(one for one in map(functools.partial(layout, "test"), range(99)) if one.scene == "beach")
    true, false, key = one.names[0], one.absent[0], str(one.image_id)
    assert exact.reward("Nothing stands out.", key) == 0
    assert exact.reward(f"There is {writer.a(true)}.", key) == pytest.approx(1 / 2)
    assert exact.reward(f"There is {writer.a(false)}.", key) == pytest.approx(-1 / 2)
    assert exact.reward(f"The {true} is above the {one.names[1]}.", key) == pytest.approx(2 / 3)


def test_chair_finds_exactly_the_objects_that_the_writer_names() -> None:
    for index in range(300):
        for sentence in writer.caption(layout("train", index), random.Random(index)):
            assert [m.category for m in mentions(sentence.text)] == list(sentence.names), sentence


def test_a_foil_names_what_is_not_there() -> None:
    rng = random.Random(0)
    for index in range(200):
        one = clip_training.example(layout("train", index), rng)
        assert one.foil != one.sentence.text
        assert set(one.sentence.names) <= set(one.layout.names)
        if one.sentence.names:
            assert not {m.category for m in mentions(one.foil)} <= set(one.layout.names)


def test_the_tokenizer_is_lossless_and_closes_clip_texts() -> None:
    tokenizer = tokens.train(["A cup is in the middle."] * 9)
    text = "Zürich \n\n 3.5 – “x”  of  two"
    policy, for_clip = tokens.for_policy(tokenizer), tokens.for_clip(tokenizer)
    assert policy.decode(policy(text).input_ids) == text
    assert for_clip(text).input_ids == [*policy(text).input_ids, for_clip.eos_token_id]


def test_every_drawing_is_known_as_one_and_photos_are_not() -> None:
    for split in ("train", "validation", "test"):
        assert all(is_drawing(image(layout(split, index))) for index in range(0, 1000, 5))
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (96, 96, 3)).astype(np.uint8))
    gradient = Image.linear_gradient("L").resize((96, 96)).convert("RGB")
    strangers = [noise, gradient, Image.new("RGB", (96, 96)), image(layout("test", 0)).resize((97, 96))]
    assert not any(map(is_drawing, strangers))
