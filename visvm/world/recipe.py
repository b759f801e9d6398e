"""The training recipe of the world: tokenizer, vision encoder, CLIP and policy, each saved when done."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import CLIPVisionModel

from visvm.models import WORLD
from visvm.prompts import DETAIL_PROMPTS
from visvm.world import checks, clip_training, policy_training, tokens, vision_training, writer
from visvm.world.clip_training import ClipLesson
from visvm.world.loop import Budget
from visvm.world.scenes import layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budgets:
    """The numbers of training images and of captions for the tokenizer, and the budget of each stage."""

    images: int
    captions: int
    vision: Budget
    clip: Budget
    alignment: Budget
    grounding: Budget
    policy: Budget


FULL = Budgets(
    images=24_000,
    captions=4000,
    vision=Budget(1500, 48, 1.5e-3),
    clip=Budget(1000, 96, 2e-3),
    alignment=Budget(2000, 48, 5e-3),
    grounding=Budget(1500, 8, 3e-3),
    policy=Budget(1200, 8, 2e-3),
)
_FEW = Budget(4, 8, 1e-3)
SHORT = Budgets(96, 200, vision=_FEW, clip=_FEW, alignment=_FEW, grounding=_FEW, policy=_FEW)


@dataclass(frozen=True)
class Options:
    """Which world is trained, and how: see ``jobs/world.py``."""

    short: bool = False
    seed: int = 0
    second: bool = False
    judge: bool = True

    @property
    def budgets(self) -> Budgets:
        """The budgets of all stages."""
        return SHORT if self.short else FULL

    def split(self, name: str) -> str:
        """Return the name of a split of this world."""
        return f"{name}2" if self.second else name


def train(out: str | Path, options: Options) -> dict[str, Any]:
    """Train the stages that ``out`` does not have yet; OUT/policy and OUT/clip are the models.

    Each stage is written when complete, so an interrupted run resumes with the stage it was in. Return the
    metrics: the options and, unless ``short``, the results of ``checks.run``.
    """
    folder, budgets, split = Path(out), options.budgets, options.split("train")
    torch.manual_seed(options.seed)
    tokenizer = _tokenizer(folder, corpus(split, budgets.captions))
    images = vision_training.draw_images(split, budgets.images)
    saved = folder / "sight"  # the vision encoder
    _stage(saved, lambda at: _encoder(images, budgets.vision, options).save_pretrained(at))
    encoder = CLIPVisionModel.from_pretrained(saved)
    _stage(folder / "clip", partial(_clip, encoder, tokenizer, images, options))
    _stage(folder / "policy", partial(_policy, encoder, tokenizer, images, options))
    metrics = {"num_images": budgets.images, **asdict(options)}
    return metrics if options.short else metrics | {"checks": checks.run(folder, options.split("validation"))}


def train_reward(out: str | Path, num_images: int, steps: int, seed: int) -> dict[str, Any]:
    """Train a SigLIP-type reward, OUT/model, on the vision encoder of the shipped policy."""
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    policy = LlavaForConditionalGeneration.from_pretrained(WORLD / "policy", dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(WORLD / "clip")
    images = vision_training.draw_images("train", num_images)
    budget = Budget(steps, FULL.clip.batch, FULL.clip.rate)
    lesson = ClipLesson("train", seed, clip_training.SigmoidLoss())
    model = clip_training.train(policy.model.vision_tower, tokenizer, images, budget, lesson)
    clip_training.save(model, tokenizer, Path(out) / "model")
    return {"num_images": num_images, "steps": steps, "seed": seed}


def _encoder(images: np.ndarray, budget: Budget, options: Options) -> CLIPVisionModel:
    return vision_training.train(images, budget, split=options.split("train"), seed=options.seed)


def _tokenizer(folder: Path, texts: list[str]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokens.train(texts).save(str(path))
    return Tokenizer.from_file(str(path))


def corpus(split: str, count: int) -> list[str]:
    """Return the texts for the tokenizer: ``count`` captions, and copies of the prompts."""
    captions = [
        writer.text(writer.caption(layout(split, index), random.Random(index))) for index in range(count)
    ]
    return captions + list(DETAIL_PROMPTS) * (count // 20)


def _stage(folder: Path, work: Callable[[Path], Any]) -> None:
    if folder.exists():
        logger.info("%s already exists: skipping this stage", folder)
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    work(unfinished)
    os.replace(unfinished, folder)


def _clip(
    encoder: CLIPVisionModel, tokenizer: Tokenizer, images: np.ndarray, options: Options, folder: Path
) -> None:
    wrapped, budget = tokens.for_clip(tokenizer), options.budgets.clip
    model = clip_training.train(encoder, wrapped, images, budget, ClipLesson(options.split("train")))
    clip_training.save(model, wrapped, folder)


def _policy(
    encoder: CLIPVisionModel, tokenizer: Tokenizer, images: np.ndarray, options: Options, folder: Path
) -> None:
    wrapped, budgets, split = tokens.for_policy(tokenizer), options.budgets, options.split("train")
    model = policy_training.untrained(encoder, wrapped)
    features = clip_training.encode(encoder, images)
    policy_training.align(model, wrapped, features, budgets.alignment, split=split)
    for budget, write in ((budgets.grounding, writer.true_text), (budgets.policy, writer.noisy_text)):
        lesson = policy_training.Lesson(write, split, options.judge)
        policy_training.train(model, wrapped, features, budget, lesson)
    policy_training.save(model, wrapped, folder)
