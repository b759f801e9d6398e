"""Compare the gradients of packed texts with those of one plain forward a text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visvm.engine.tree_packing import TokenTree, pack_trees
from visvm.families import Inputs
from visvm.records import DecodedImage
from visvm.value.model import VisionValueModel

NOISE = 1e-3  # share of the largest gradient below which one is rounding: a key's bias has none at all
LARGEST = 2**16  # weights of a tensor whose gradient is compared: norms and biases of the largest models


def gradient_difference(model: VisionValueModel, image: DecodedImage) -> float:
    """Return the largest difference of a gradient, as a share of the largest entry of its tensor.

    The texts share their beginning. Compared are the tensors of at most ``LARGEST`` weights that the plain
    forward gives a gradient: those of every layer that change with all that the layer reads.
    """
    texts = _texts(model.family)
    weights = [
        (key, p) for key, p in model.named_parameters() if p.numel() <= LARGEST and p.is_floating_point()
    ]
    for _, p in weights:
        p.requires_grad_(True)
    (inputs,) = model.family.preprocess([image])
    tree = TokenTree()
    reads = [tree.add(text)[-1] for text in texts]
    packed = _gradients(model([inputs], pack_trees([tree], [reads]).to(model.family.device)), weights)
    plain = _gradients(torch.stack([_plain(model, inputs, text) for text in texts]), weights)
    pairs = [(packed[key], theirs) for key, theirs in plain.items() if theirs is not None]
    largest = max(theirs.abs().max().item() for _, theirs in pairs)
    return max(_difference(mine, theirs, NOISE * largest) for mine, theirs in pairs)


def _texts(family: Any) -> list[list[int]]:
    sentences = ("A dog sits on a bench.", "A dog sits near the red table.", "Two people ride bikes.")
    return [family.text_ids(sentence) for sentence in sentences]


def _gradients(values: Tensor, weights: Any) -> dict[str, Tensor | None]:
    given = torch.autograd.grad(values.square().sum(), [p for _, p in weights], allow_unused=True)
    return {key: gradient for (key, _), gradient in zip(weights, given, strict=True)}


def _plain(model: VisionValueModel, inputs: Inputs, text: list[int]) -> Tensor:
    """Return the outputs [2] behind an image and a text, by the whole model as transformers runs it."""
    given = model.family.to_device(followed_by(inputs, text, prompt_in_prefix=model.family.prompt_in_prefix))
    return model.head(model.base(**given, use_cache=False).last_hidden_state[0, -1])


def followed_by(inputs: Inputs, tokens: list[int], *, prompt_in_prefix: bool) -> Inputs:
    """Return a conversation with text tokens behind it, as one batch for the whole model."""
    ids, more = inputs["input_ids"], torch.tensor([tokens])
    fill = {"attention_mask": 1, "token_type_ids": int(prompt_in_prefix)}
    out = dict(inputs)
    for key, value in inputs.items():
        if value.shape == ids.shape and not value.is_floating_point():
            row = more if key == "input_ids" else torch.full_like(more, fill.get(key, 0))
            out[key] = torch.cat([value, row], dim=1)
    return out


def _difference(mine: Tensor | None, theirs: Tensor, floor: float) -> float:
    # What an image's last layer adds to its tokens is read by nobody: no gradient here, zeros there.
    difference = (torch.zeros_like(theirs) if mine is None else mine) - theirs
    return difference.abs().max().item() / max(theirs.abs().max().item(), floor)
