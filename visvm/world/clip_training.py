"""The world's CLIP: the shared vision encoder, and a text encoder trained by contrast with its images.

The image side is locked (as in LiT, Zhai et al. 2022): only its last norm and projection train.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedTokenizerFast

from visvm.world import writer
from visvm.world.loop import Budget, LoopProgress, Optimizer, batches
from visvm.world.rendering import SIZE
from visvm.world.scenes import SCENES, Layout, layout
from visvm.world.vision_training import MEAN, PATCH, STD, pixels

CONTEXT = 32
_SHARE_OF_HARD_BATCHES = 0.7
_LARGEST_SCALE = 50.0


def config(tokenizer: PreTrainedTokenizerFast) -> dict:
    """Return open_clip's model config: the shared vision encoder, and 2 text layers of width 128."""
    vision = {
        "image_size": SIZE,
        "patch_size": PATCH,
        "width": 160,
        "layers": 3,
        "head_width": 32,
        "pool_type": "avg",
    }
    text = {
        "context_length": CONTEXT,
        "vocab_size": len(tokenizer),
        "hf_tokenizer_name": "visvm-world",
        "width": 128,
        "heads": 4,
        "layers": 2,
        "pool_type": "eos",
        "pad_id": tokenizer.pad_token_id,
        "eos_id": tokenizer.eos_token_id,
    }
    return {"embed_dim": 128, "vision_cfg": vision, "text_cfg": text}


@dataclass(frozen=True)
class ClipExample:
    """An image with a true sentence and a foil: the sentence with one object (or the scene) made false."""

    layout: Layout
    sentence: writer.SceneSentence
    foil: str


@dataclass(frozen=True)
class ClipLesson:
    """The split that is learned from, the seed, and the objective: ``contrast``, or one of its arguments."""

    split: str
    seed: int = 0
    objective: nn.Module | None = None


def train(
    encoder: CLIPVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    images: np.ndarray,
    budget: Budget,
    lesson: ClipLesson,
) -> open_clip.CLIP:
    """Train CLIP on ``images``, the first of a split; after a third of the steps mostly by scene."""
    torch.manual_seed(lesson.seed)
    split, seed, objective = lesson.split, lesson.seed, lesson.objective
    model = untrained(encoder, tokenizer)
    patches, by_scene = encode(encoder, images), _by_scene(split, len(images))
    rng = random.Random(seed)
    learned = [model] if objective is None else [model, objective]
    optimizer, progress = Optimizer(learned, budget), LoopProgress("clip", budget.steps)
    for step, chosen in enumerate(batches(len(images), budget, seed=seed + 1)):
        if step > budget.steps // 3 and rng.random() < _SHARE_OF_HARD_BATCHES:
            chosen = np.array(rng.choices(by_scene[rng.choice(sorted(SCENES))], k=budget.batch))
        examples = [example(layout(split, int(index)), rng) for index in chosen]
        image_embeds = _images(model, patches[chosen].float())
        texts = _texts(model, tokenizer, [e.sentence.text for e in examples] + [e.foil for e in examples])
        loss, accuracy = (objective or contrast)(image_embeds, texts, scale=model.logit_scale.exp())
        optimizer.advance(loss)
        model.logit_scale.data.clamp_(max=np.log(_LARGEST_SCALE))
        progress(step, loss=loss, foil_accuracy=accuracy)
    return model


def contrast(images: Tensor, texts: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return CLIP's loss over images [n, d] and texts [2n, d] (true ones, then foils), and the foil accuracy.

    A foil is an additional negative of its own image (as in NegCLIP, Yuksekgonul et al. 2023).
    """
    count = len(images)
    own = torch.arange(count)
    logits = scale * images @ texts[:count].T
    foil = scale * (images * texts[count:]).sum(-1, keepdim=True)
    entropy = nn.functional.cross_entropy
    loss = (entropy(torch.cat([logits, foil], 1), own) + entropy(logits.T, own)) / 2
    return loss, (logits.diagonal() > foil[:, 0]).float().mean()


class SigmoidLoss(nn.Module):
    """SigLIP's loss: each pair of image and text is a decision (Zhai et al. 2023, arXiv 2303.15343)."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss over images [n, d] and texts [2n, d], the foils last, and the foil accuracy."""
        count = len(images)
        pairs = scale * images @ texts[:count].T + self.bias
        foils = scale * (images * texts[count:]).sum(-1) + self.bias
        signs = 2 * torch.eye(count) - 1
        log = nn.functional.logsigmoid
        loss = -(log(signs * pairs).sum() + log(-foils).sum()) / count
        return loss, (pairs.diagonal() > foils).float().mean()


def example(one: Layout, rng: random.Random) -> ClipExample:
    """Draw a random true sentence about an image, with its foil."""
    sentence = rng.choice(writer.truthful(one, rng))
    if not sentence.names:
        other = rng.choice([scene for scene in SCENES if scene != one.scene])
        return ClipExample(one, sentence, swap(sentence.text, one.scene, other))
    absent = rng.choice([name for name in one.absent if name not in sentence.names] or ["zebra"])
    return ClipExample(one, sentence, swap(sentence.text, rng.choice(sentence.names), absent))


def swap(text: str, name: str, other: str) -> str:
    """Replace one name in a text by another, with its article."""
    text = re.sub(rf"\ban? {name}\b", writer.a(other), text)
    text = re.sub(rf"\bAn? {name}\b", writer.a(other).capitalize(), text)
    return re.sub(rf"\b{name}\b", other, text)


def save(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what open_clip loads from ``local-dir:FOLDER``, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"size": [SIZE, SIZE], "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    whole = {"model_cfg": config(tokenizer), "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(whole, indent=2) + "\n")
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def untrained(encoder: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> open_clip.CLIP:
    """Return an open_clip model on the vision encoder, frozen but for the last norm and projection."""
    model = open_clip.CLIP(**config(tokenizer))
    missing = model.visual.load_state_dict(_open_clip_names(encoder), strict=False).missing_keys
    assert missing == ["proj"], missing
    model.visual.requires_grad_(False)
    model.visual.ln_post.requires_grad_(True)
    model.visual.proj.requires_grad_(True)
    return model


@torch.no_grad()
def encode(encoder: CLIPVisionModel, images: np.ndarray) -> Tensor:
    """Return the patch features [n, 36, 160] of images [n, 96, 96, 3], in half precision."""
    parts = [images[i : i + 256] for i in range(0, len(images), 256)]
    return torch.cat([encoder(pixels(part)).last_hidden_state[:, 1:].half() for part in parts])


def _by_scene(split: str, count: int) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {scene: [] for scene in SCENES}
    for index in range(count):
        groups[layout(split, index).scene].append(index)
    return groups


def _images(model: open_clip.CLIP, patches: Tensor) -> Tensor:
    pooled = model.visual.ln_post(patches).mean(1) @ model.visual.proj
    return nn.functional.normalize(pooled, dim=-1)


def _texts(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    padded = tokenizer(texts, return_tensors="pt", padding="max_length", max_length=CONTEXT, truncation=True)
    return model.encode_text(padded.input_ids, normalize=True)


def _open_clip_names(encoder: CLIPVisionModel) -> dict[str, Tensor]:
    state = {name.removeprefix("vision_model."): value for name, value in encoder.state_dict().items()}
    out = {
        "conv1.weight": state["embeddings.patch_embedding.weight"],
        "class_embedding": state["embeddings.class_embedding"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        out |= {f"{theirs}.{part}": state[f"{ours}.{part}"] for part in ("weight", "bias")}
    for at in range(encoder.config.num_hidden_layers):
        out |= _block(state, f"encoder.layers.{at}.", f"transformer.resblocks.{at}.")
    return out


def _block(state: dict[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    pairs = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    out: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        out |= {f"{theirs}{to}.{part}": state[f"{ours}{name}.{part}"] for name, to in pairs.items()}
        attention = [state[f"{ours}self_attn.{side}_proj.{part}"] for side in "qkv"]
        out[f"{theirs}attn.in_proj_{part}"] = torch.cat(attention)
    return out
