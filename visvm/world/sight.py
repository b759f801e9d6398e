"""Sight: the vision encoder both models share, taught to say what covers each patch.

Contrast alone never taught so small an encoder to see (see docs/world.md); dense labels do in minutes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from visvm.world.loop import Budget, LoopProgress, Optimizer, batches
from visvm.world.rendering import SIZE, draw
from visvm.world.scenes import CATEGORIES, CELLS, GRID, layout

PATCH = 16
MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
_SIDE = SIZE // PATCH
_PLACE_WEIGHT = 0.3


def config() -> CLIPVisionConfig:
    """The vision encoder: 36 patches of 16 px and the class token, 3 layers of width 160."""
    return CLIPVisionConfig(
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=3,
        num_attention_heads=5,
        hidden_act="gelu",
    )


def pixels(images: np.ndarray) -> torch.Tensor:
    """Bytes [n, 96, 96, 3] as the normalised float tensor [n, 3, 96, 96] that the encoders take."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def patch_labels(split: str, index: int) -> np.ndarray:
    """For each of the 36 patches, row-major, the category of its cell, or len(CATEGORIES) for none."""
    cells = np.full(CELLS, len(CATEGORIES), dtype=np.int64)
    for name, cell in layout(split, index).objects:
        cells[cell] = CATEGORIES.index(name)
    return cells[patch_cells()]


def patch_cells() -> np.ndarray:
    """The cell of each of the 36 patches, both row-major."""
    per_cell = _SIDE // GRID
    return np.arange(CELLS).reshape(GRID, GRID).repeat(per_cell, 0).repeat(per_cell, 1).reshape(-1)


def album(split: str, count: int, *, start: int = 0) -> np.ndarray:
    """Images ``start`` .. ``start + count - 1`` of a split, as bytes [count, 96, 96, 3]."""
    return np.stack([draw(layout(split, index)) for index in range(start, start + count)])


def train(images: np.ndarray, budget: Budget, *, seed: int = 0) -> CLIPVisionModel:
    """Train a vision encoder on the train split's first images: its patches tell their category and place.

    Without the second label the place fades out of the features, and the policy cannot locate.
    """
    torch.manual_seed(seed)
    encoder, head = CLIPVisionModel(config()), nn.Linear(config().hidden_size, len(CATEGORIES) + 1)
    place_head, places = nn.Linear(config().hidden_size, _SIDE**2), torch.arange(_SIDE**2)
    labels = torch.from_numpy(np.stack([patch_labels("train", i) for i in range(len(images))]))
    optimizer = Optimizer([encoder, head, place_head], budget)
    progress = LoopProgress("sight", budget.steps)
    for step, chosen in enumerate(batches(len(images), budget, seed=seed)):
        patches = encoder(pixels(images[chosen])).last_hidden_state[:, 1:]
        logits = head(patches)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten())
        place = nn.functional.cross_entropy(place_head(patches).flatten(0, 1), places.repeat(len(chosen)))
        optimizer.advance(loss + _PLACE_WEIGHT * place)
        accuracy = (logits.argmax(-1) == labels[chosen]).float().mean()
        progress(step, category=loss, place=place, accuracy=accuracy)
    return encoder


def save(encoder: CLIPVisionModel, folder: Path) -> None:
    """Write the vision encoder in the form of transformers."""
    encoder.save_pretrained(folder)
