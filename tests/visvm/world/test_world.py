"""The embedded world: exact truth, deterministic images, real model classes."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel

from jobs.world import main
from visvm.metrics.chair import mentions
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import DETAIL_PROMPTS
from visvm.reward import ClipScorer
from visvm.search import Decode
from visvm.world import (
    checks,
    clip_training,
    coco_export,
    exact,
    loop,
    policy_training,
    recipe,
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


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    assert main(["train", "--short", "--out", str(folder)]) == 0
    return folder


def test_the_recipe_makes_models_that_load(short) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{short / 'clip'}")
    shown = image(layout("test", 0))
    with torch.no_grad():
        embedded = model.encode_image(preprocess(shown)[None])
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{short / 'clip'}")(["A cup."]))
    assert embedded.shape == texts.shape == (1, 128)
    policy = AutoModelForImageTextToText.from_pretrained(short / "policy")
    assert policy.dtype == torch.float32
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}]
    processor = AutoProcessor.from_pretrained(short / "policy")
    text = processor.apply_chat_template(prompt, add_generation_prompt=True)
    inputs = processor(images=[shown], text=[text], return_tensors="pt")
    assert (inputs.input_ids == policy.config.image_token_id).sum() == 36
    assert policy.generate(**inputs, max_new_tokens=4).shape[1] > inputs.input_ids.shape[1]


def test_clip_has_the_features_of_the_vision_encoder(short) -> None:
    encoder = CLIPVisionModel.from_pretrained(short / "sight")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{short / 'clip'}")
    shown = layout("test", 1)
    with torch.no_grad():
        patches = clip_training.encode(encoder, rendering.draw(shown)[None]).float()
        expected = model.visual.ln_post(patches).mean(1) @ model.visual.proj
        actual = model.encode_image(preprocess(image(shown))[None])
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)


def test_a_finished_stage_is_not_trained_again(short, monkeypatch) -> None:
    monkeypatch.setattr(recipe.vision_training, "train", None)
    assert recipe.train(short, short=True)["short"]


def test_turns_packed_after_an_image_have_the_losses_of_separate_ones(short) -> None:
    tokenizer = AutoProcessor.from_pretrained(short / "policy").tokenizer
    model = AutoModelForImageTextToText.from_pretrained(short / "policy", dtype=torch.float64)
    features = torch.randn(1, 36, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    texts = iter(["A cup is at the top.", "This is a street.", "Nothing.", "A dog and a cat."])
    pack = policy_training.pack(tokenizer, 0, lambda *_: next(texts), random.Random(0))
    heads = policy_training.Heads(128).double()
    labelled = ("labels", "places", "truths")
    totals, counts = np.zeros(3), np.zeros(3)
    for turn in range(1, max(pack.segments) + 1):
        keep = [at for at, segment in enumerate(pack.segments) if segment in (0, turn)]
        assert [pack.positions[at] for at in keep] == list(range(len(keep)))
        alone = policy_training.CaptionPack(
            *([getattr(pack, one.name)[at] for at in keep] for one in dataclasses.fields(pack))
        )
        sizes = np.array([sum(label >= 0 for label in getattr(alone, name)) for name in labelled])
        losses = policy_training.losses(model, heads, features, policy_training.Batch.of([alone], 0))
        totals += [size * loss.item() if size else 0 for size, loss in zip(sizes, losses, strict=True)]
        counts += sizes
    together = policy_training.losses(model, heads, features, policy_training.Batch.of([pack], 0))
    assert counts.min() > 0
    assert [loss.item() for loss in together] == pytest.approx(totals / counts, rel=1e-9)


def test_names_are_labelled_with_places_and_claims_with_their_truth(short) -> None:
    tokenizer = AutoProcessor.from_pretrained(short / "policy").tokenizer
    one = layout("train", 3)
    texts = iter([f"{writer.a(one.names[0])} and {writer.a(one.absent[0])}.", "Nothing.", "Nothing.", "No."])
    pack = policy_training.pack(tokenizer, 3, lambda *_: next(texts), random.Random(0))
    first = [place for place, turn in zip(pack.places, pack.segments, strict=True) if turn == 1]
    assert [place for place in first if place >= 0] == [dict(one.objects)[one.names[0]], scenes.CELLS]
    claims = [
        (tokenizer.decode([pack.ids[at] for at in range(len(pack.ids)) if pack.segments[at] == turn]), truth)
        for turn, truth in zip(pack.segments, pack.truths, strict=True)
        if truth >= 0
    ]
    assert {truth for _, truth in claims} == {0, 1}
    for text, truth in claims:
        named = [name for name in scenes.CATEGORIES if re.search(rf"\b{name}\b", text)]
        assert (set(named) <= set(one.names)) == truth, text


def test_a_caption_is_trained_as_generate_reads_it(short) -> None:
    processor = AutoProcessor.from_pretrained(short / "policy")
    pack = policy_training.pack(processor.tokenizer, 0, lambda *_: "A cup.", random.Random(0))
    end = len(pack.segments) - pack.segments[::-1].index(1)
    text = processor.tokenizer.decode(pack.ids[:end])
    prompt = next(prompt for prompt in DETAIL_PROMPTS if prompt in text)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    chat = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[image(layout("test", 0))], text=[chat + "A cup.</s>"])
    assert pack.ids[:end] == list(inputs.input_ids[0])


def test_muon_updates_have_the_same_size_in_all_directions() -> None:
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)) @ torch.diag(
        torch.arange(1.0, 65)
    )
    singular = torch.linalg.svdvals(loop.orthogonal(matrix))
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_the_shipped_weights_are_small_and_accurate() -> None:
    weights = Path(recipe.__file__).parent / "weights"
    assert sum(file.stat().st_size for file in weights.rglob("*")) < 12 * 2**20
    scorer = ClipScorer.from_pretrained(str(weights / "clip"))
    assert checks.pair_accuracy(scorer, 200) >= 0.9
    policy = SharedPrefixPolicy.from_pretrained(str(weights / "policy"))
    greedy = checks.figures({"greedy": checks.search(Decode(), policy, None, 16)})["rows"][0]
    assert greedy["recall"] > 0.8
    assert greedy["chair_i"] < 0.25


def test_every_drawing_is_known_as_one_and_photos_are_not() -> None:
    for split in ("train", "validation", "test"):
        assert all(is_drawing(image(layout(split, index))) for index in range(0, 1000, 5))
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (96, 96, 3)).astype(np.uint8))
    gradient = Image.linear_gradient("L").resize((96, 96)).convert("RGB")
    strangers = [noise, gradient, Image.new("RGB", (96, 96)), image(layout("test", 0)).resize((97, 96))]
    assert not any(map(is_drawing, strangers))
