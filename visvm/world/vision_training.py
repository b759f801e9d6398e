"""The vision encoder that policy and CLIP share, trained to classify what covers each patch.

So small an encoder does not learn from a contrastive loss alone (see docs/world.md); from dense labels it
learns within minutes.
"""

from __future__ import annotations

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
    """Return the configuration: 36 patches of 16 px and a class token, 3 layers of width 160."""
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
    """Convert RGB bytes [n, 96, 96, 3] to the normalised float tensor [n, 3, 96, 96] of the encoders."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def patch_labels(split: str, index: int) -> np.ndarray:
    """Return the category index of each of the 36 patches, row-major; len(CATEGORIES) for an empty cell."""
    cells = np.full(CELLS, len(CATEGORIES), dtype=np.int64)
    for name, cell in layout(split, index).objects:
        cells[cell] = CATEGORIES.index(name)
    return cells[patch_cells()]


def patch_cells() -> np.ndarray:
    """Return the cell (0..8) of each of the 36 patches; both are row-major."""
    per_cell = _SIDE // GRID
    return np.arange(CELLS).reshape(GRID, GRID).repeat(per_cell, 0).repeat(per_cell, 1).reshape(-1)


def draw_images(split: str, count: int, *, start: int = 0) -> np.ndarray:
    """Draw images ``start`` .. ``start + count - 1`` of a split, as RGB bytes [count, 96, 96, 3]."""
    return np.stack([draw(layout(split, index)) for index in range(start, start + count)])


def train(images: np.ndarray, budget: Budget, *, split: str, seed: int = 0) -> CLIPVisionModel:
    """Train a vision encoder on ``images``, the first of ``split``, to label their patches.

    A patch predicts its category and its place. Without the second loss the place fades from the features,
    and the policy cannot locate objects.
    """
    torch.manual_seed(seed)
    encoder, head = CLIPVisionModel(config()), nn.Linear(config().hidden_size, len(CATEGORIES) + 1)
    place_head, places = nn.Linear(config().hidden_size, _SIDE**2), torch.arange(_SIDE**2)
    labels = torch.from_numpy(np.stack([patch_labels(split, i) for i in range(len(images))]))
    optimizer = Optimizer([encoder, head, place_head], budget)
    progress = LoopProgress("vision encoder", budget.steps)
    for step, chosen in enumerate(batches(len(images), budget, seed=seed)):
        patches = encoder(pixels(images[chosen])).last_hidden_state[:, 1:]
        logits = head(patches)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[chosen].flatten())
        place = nn.functional.cross_entropy(place_head(patches).flatten(0, 1), places.repeat(len(chosen)))
        optimizer.advance(loss + _PLACE_WEIGHT * place)
        accuracy = (logits.argmax(-1) == labels[chosen]).float().mean()
        progress(step, category=loss, place=place, accuracy=accuracy)
    return encoder
