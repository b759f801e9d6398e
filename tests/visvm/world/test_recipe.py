"""The recipe of the world: its stages, the models they make, and the shipped weights."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, CLIPVisionModel

from jobs.world import main
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import DETAIL_PROMPTS
from visvm.reward import ClipScorer
from visvm.search import Decode
from visvm.world import (
    checks,
    clip_training,
    loop,
    policy_training,
    recipe,
    rendering,
    scenes,
    writer,
)
from visvm.world.rendering import image
from visvm.world.scenes import layout


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
    assert recipe.train(short, recipe.Options(short=True))["short"]


def _lesson(texts: Iterator[str], judge: bool = True) -> policy_training.Lesson:
    return policy_training.Lesson(lambda *_: next(texts), judge=judge)


def test_without_judging_only_the_words_are_learned(short) -> None:
    tokenizer = AutoProcessor.from_pretrained(short / "policy").tokenizer
    lesson = _lesson(itertools.repeat("A cup."), judge=False)
    pack = policy_training.pack(tokenizer, layout("train", 0), lesson, random.Random(0))
    assert max(pack.truths) < 0
    assert max(pack.segments) == 4


def test_turns_packed_after_an_image_have_the_losses_of_separate_ones(short) -> None:
    tokenizer = AutoProcessor.from_pretrained(short / "policy").tokenizer
    model = AutoModelForImageTextToText.from_pretrained(short / "policy", dtype=torch.float64)
    features = torch.randn(1, 36, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    texts = iter(["A cup is at the top.", "This is a street.", "Nothing.", "A dog and a cat."])
    pack = policy_training.pack(tokenizer, layout("train", 0), _lesson(texts), random.Random(0))
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
    pack = policy_training.pack(tokenizer, one, _lesson(texts), random.Random(0))
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
    processor, texts = AutoProcessor.from_pretrained(short / "policy"), itertools.repeat("A cup.")
    pack = policy_training.pack(processor.tokenizer, layout("train", 0), _lesson(texts), random.Random(0))
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
    shown = [layout("validation", index) for index in range(200)]
    assert checks.pair_accuracy(scorer, shown) >= 0.9
    policy = SharedPrefixPolicy.from_pretrained(str(weights / "policy"))
    greedy = checks.figures({"greedy": checks.search(Decode(), policy, None, shown[:16])})["rows"][0]
    assert greedy["recall"] > 0.8
    assert greedy["chair_i"] < 0.25


def test_the_second_reward_learns_and_loads(tmp_path: Path) -> None:
    assert main(["reward", "--num-images", "96", "--steps", "2", "--out", str(tmp_path)]) == 0
    scorer = ClipScorer.from_pretrained(str(tmp_path / "model"))
    shown = checks.render_image(layout("test", 0))
    [[cup, dog]] = scorer.similarities([shown], [["A cup is on the left.", "A dog is on the left."]])
    assert -1 <= cup <= 1 and cup != dog


def test_the_sigmoid_loss_is_least_where_pairs_match_and_foils_do_not() -> None:
    images, objective = torch.eye(4), clip_training.SigmoidLoss()
    scale, right, wrong = torch.tensor(20.0), torch.cat([images, -images]), torch.cat([images, images])
    matched, accuracy = objective(images, right, scale=scale)
    swapped, _ = objective(images, torch.cat([images.flip(0), -images]), scale=scale)
    assert matched < swapped and matched < objective(images, wrong, scale=scale)[0]
    assert accuracy == 1
