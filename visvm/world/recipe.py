"""The training recipe of the world: tokenizer, vision encoder, CLIP and policy, each saved when done."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import CLIPVisionModel

from visvm.prompts import DETAIL_PROMPTS
from visvm.world import checks, clip_training, policy_training, tokens, vision_training, writer
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


def train(out: str | Path, *, short: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train the stages that ``out`` does not have yet; OUT/policy and OUT/clip are the models.

    Each stage is written when complete, so an interrupted run resumes with the stage it was in. Return the
    metrics: the settings and, unless ``short``, the results of ``checks.run``.
    """
    folder, budgets = Path(out), SHORT if short else FULL
    torch.manual_seed(seed)
    tokenizer = _tokenizer(folder, budgets.captions)
    images = vision_training.draw_images("train", budgets.images)
    saved = folder / "sight"  # the vision encoder
    _stage(saved, lambda at: vision_training.train(images, budgets.vision, seed=seed).save_pretrained(at))
    encoder = CLIPVisionModel.from_pretrained(saved)
    _stage(folder / "clip", lambda at: _clip(encoder, tokenizer, images, budgets.clip, at))
    _stage(folder / "policy", lambda at: _policy(encoder, tokenizer, images, budgets, at))
    metrics = {"num_images": budgets.images, "short": short, "seed": seed}
    return metrics if short else metrics | {"checks": checks.run(folder)}


def _tokenizer(folder: Path, num_captions: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokens.train(corpus(num_captions)).save(str(path))
    return Tokenizer.from_file(str(path))


def corpus(count: int) -> list[str]:
    """Return the texts for the tokenizer: ``count`` captions, and copies of the prompts."""
    captions = [
        writer.text(writer.caption(layout("train", index), random.Random(index))) for index in range(count)
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
    encoder: CLIPVisionModel, tokenizer: Tokenizer, images: np.ndarray, budget: Budget, folder: Path
) -> None:
    wrapped = tokens.for_clip(tokenizer)
    clip_training.save(clip_training.train(encoder, wrapped, images, budget), wrapped, folder)


def _policy(
    encoder: CLIPVisionModel, tokenizer: Tokenizer, images: np.ndarray, budgets: Budgets, folder: Path
) -> None:
    wrapped = tokens.for_policy(tokenizer)
    model = policy_training.untrained(encoder, wrapped)
    features = clip_training.encode(encoder, images)
    policy_training.align(model, wrapped, features, budgets.alignment)
    policy_training.train(model, wrapped, features, budgets.grounding, write=writer.true_text)
    policy_training.train(model, wrapped, features, budgets.policy, write=writer.noisy_text)
    policy_training.save(model, wrapped, folder)
