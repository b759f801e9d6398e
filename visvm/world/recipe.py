"""The recipe: tokenizer, sight, CLIP and policy, from nothing; each stage saved, none done twice."""

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
from visvm.world import checks, clip_training, policy_training, sight, tokens, writer
from visvm.world.loop import Budget
from visvm.world.scenes import layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budgets:
    """How many training images there are, captions for the tokenizer, and each stage's training."""

    images: int
    captions: int
    sight: Budget
    clip: Budget
    alignment: Budget
    grounding: Budget
    policy: Budget


FULL = Budgets(
    images=24_000,
    captions=4000,
    sight=Budget(1500, 48, 1.5e-3),
    clip=Budget(1000, 96, 2e-3),
    alignment=Budget(2000, 48, 5e-3),
    grounding=Budget(1500, 8, 3e-3),
    policy=Budget(1200, 8, 2e-3),
)
_FEW = Budget(4, 8, 1e-3)
SHORT = Budgets(96, 200, sight=_FEW, clip=_FEW, alignment=_FEW, grounding=_FEW, policy=_FEW)


def train(out: str | Path, *, short: bool = False, seed: int = 0) -> dict[str, Any]:
    """Train what is not saved in ``out`` yet: OUT/policy and OUT/clip are the models.

    Every stage is written in one step, so an interrupted run goes on with the stage it was in.
    """
    folder, budgets = Path(out), SHORT if short else FULL
    torch.manual_seed(seed)
    tokenizer = _tokenizer(folder, budgets.captions)
    album = sight.album("train", budgets.images)
    _stage(folder / "sight", lambda at: sight.train(album, budgets.sight, seed=seed).save_pretrained(at))
    encoder = CLIPVisionModel.from_pretrained(folder / "sight")
    _stage(folder / "clip", lambda at: _clip(encoder, tokenizer, album, budgets.clip, at))
    _stage(folder / "policy", lambda at: _policy(encoder, tokenizer, album, budgets, at))
    metrics = {"num_images": budgets.images, "short": short, "seed": seed}
    return metrics if short else metrics | {"checks": checks.run(folder)}


def _tokenizer(folder: Path, num_captions: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        tokens.train(corpus(num_captions)).save(str(path))
    return Tokenizer.from_file(str(path))


def corpus(count: int) -> list[str]:
    """The tokenizer's texts: captions of ``count`` images, and the prompts often enough to be words."""
    captions = [
        writer.text(writer.caption(layout("train", index), random.Random(index))) for index in range(count)
    ]
    return captions + list(DETAIL_PROMPTS) * (count // 20)


def _stage(folder: Path, work: Callable[[Path], Any]) -> None:
    if folder.exists():
        logger.info("%s is there already", folder)
        return
    unfinished = folder.with_name(folder.name + ".unfinished")
    work(unfinished)
    os.replace(unfinished, folder)


def _clip(
    encoder: CLIPVisionModel, tokenizer: Tokenizer, album: np.ndarray, budget: Budget, folder: Path
) -> None:
    wrapped = tokens.for_clip(tokenizer)
    clip_training.save(clip_training.train(encoder, wrapped, album, budget), wrapped, folder)


def _policy(
    encoder: CLIPVisionModel, tokenizer: Tokenizer, album: np.ndarray, budgets: Budgets, folder: Path
) -> None:
    wrapped = tokens.for_policy(tokenizer)
    model = policy_training.untrained(encoder, wrapped)
    features = clip_training.encode(encoder, album)
    policy_training.align(model, wrapped, features, budgets.alignment)
    policy_training.train(model, wrapped, features, budgets.grounding, write=writer.true_text)
    policy_training.train(model, wrapped, features, budgets.policy, write=writer.noisy_text)
    policy_training.save(model, wrapped, folder)
