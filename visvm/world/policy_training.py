"""The world's policy: a small model of LLaVA's classes, trained on the captions of the writer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from visvm.prompts import DETAIL_PROMPTS
from visvm.world import vision_training
from visvm.world.loop import Budget, LoopProgress, Optimizer, batches
from visvm.world.rendering import SIZE
from visvm.world.scenes import CATEGORIES, CELLS, Layout, layout
from visvm.world.vision_training import MEAN, PATCH, STD, patch_cells, patch_labels
from visvm.world.writer import PLACE_WORDS, PLACES, claim

Write = Callable[[Layout, random.Random], str]
_IGNORED = -100
_CAPTIONS = 4  # per image and step; they share the tokens of the image
_CLAIMS = 8
_NOWHERE = CELLS  # the place label of a name that is not in the image
_NAMES = re.compile(rf"\b({'|'.join(sorted(CATEGORIES, key=len, reverse=True))})\b")


def config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """Return the configuration: the shared vision encoder, and a Llama of 3 layers of width 128."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=128**-0.5,  # with the usual 0.02, so narrow a model hardly learns to attend
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=vision_training.config(),
        text_config=text,
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        image_seq_length=(SIZE // PATCH) ** 2,
    )


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Return LLaVA's processor for the world's image size."""
    square = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=square, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def untrained(encoder: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Return a policy with the frozen vision encoder and an untrained language model.

    Key projections start equal to query projections, so that a token attends to similar ones at first.
    """
    model = LlavaForConditionalGeneration(config(tokenizer))
    model.model.vision_tower.load_state_dict(encoder.state_dict())
    model.model.vision_tower.requires_grad_(False)
    for layer in model.model.language_model.layers:
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight.data)
    return model


def align(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    budget: Budget,
    *,
    split: str,
) -> None:
    """Train the projector alone to map a patch to the words for its category and its place.

    LLaVA's first stage does this with captions. Dense targets (sums of word embeddings) are far quicker,
    and without them so small a model does not learn to use the image.
    """
    embeddings: Any = model.get_input_embeddings().weight
    targets = _meanings(tokenizer) @ embeddings.detach()
    labels = torch.from_numpy(np.stack([patch_labels(split, i) for i in range(len(features))]))
    projector: Any = model.model.multi_modal_projector
    optimizer, progress = Optimizer([projector], budget), LoopProgress("alignment", budget.steps)
    for step, chosen in enumerate(batches(len(features), budget, seed=3)):
        wanted = targets[labels[chosen], torch.arange(labels.shape[1])]
        loss = nn.functional.mse_loss(projector(features[chosen].float()), wanted)
        optimizer.advance(loss)
        progress(step, error=loss / wanted.var())


@dataclass(frozen=True)
class Lesson:
    """What the policy learns: texts by ``write`` on images of ``split``, and whether to ``judge`` claims."""

    write: Write
    split: str = "train"
    judge: bool = True


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    budget: Budget,
    lesson: Lesson,
) -> LlavaForConditionalGeneration:
    """Train projector and language model on freshly written texts for the first images of a split.

    ``features`` [n, 36, 160] come from the frozen vision encoder, which is not run again. With
    ``lesson.judge``, two auxiliary heads learn where each named object is (or that it is absent) and whether
    a claim is true. Large models can judge a sentence by the image, and a value model is initialised from
    its policy.
    """
    rng = random.Random(budget.steps)
    heads = Heads(model.lm_head.in_features)
    optimizer = Optimizer([model, heads] if lesson.judge else [model], budget)
    progress = LoopProgress("policy", budget.steps)
    for step, chosen in enumerate(batches(len(features), budget, seed=rng.randrange(2**32))):
        packs = [pack(tokenizer, layout(lesson.split, int(index)), lesson, rng) for index in chosen]
        batch = Batch.of(packs, tokenizer.pad_token_id)
        words, places, truths = losses(model, heads, features[chosen].float(), batch)
        optimizer.advance(words + places + truths if lesson.judge else words)
        progress(step, words=words, places=places, truths=truths)
    return model


class Heads(nn.Module):
    """Auxiliary heads, not saved: the ``place`` of a name (last class: nowhere), the ``truth`` of a claim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, CELLS + 1)
        self.truth = nn.Linear(width, 2)


def losses(
    model: LlavaForConditionalGeneration, heads: Heads, features: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean cross-entropies of the captions' tokens, the names' places and the claims' truth.

    ``features`` [n, 36, 160] come from the vision encoder. Places are read before the last layer, so that
    this layer can collect them at the end of a claim, where the truth is read.
    """
    embedded = model.get_input_embeddings()(batch.ids)
    projector: Any = model.model.multi_modal_projector
    places = (batch.ids == model.config.image_token_id).unsqueeze(-1).expand_as(embedded)
    out = model.model.language_model(
        inputs_embeds=embedded.masked_scatter(places, projector(features)),
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        output_hidden_states=True,
    )
    predictions = [
        (model.lm_head, out.last_hidden_state, batch.labels),
        (heads.place, out.hidden_states[-2], batch.places),
        (heads.truth, out.last_hidden_state, batch.truths),
    ]
    words, found, judged = (
        nn.functional.cross_entropy(head(states[labels != _IGNORED]), labels[labels != _IGNORED])
        for head, states, labels in predictions
    )
    return words, found, judged


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the policy for transformers: weights in half precision, to be computed in single precision."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    names = ("vision_tower.", "vision_tower.vision_model.")  # ours, and the hub's, which vLLM expects
    weights = {name.replace(*names, 1): weight for name, weight in model.half().state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    settings: Any = model.float().config
    for part in (settings, settings.text_config, settings.vision_config):
        part.dtype = torch.float32
    settings.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)


def _meanings(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Return [categories + 1, 36, vocabulary]: the token counts of a category's name and a patch's place."""
    counts = torch.zeros(len(CATEGORIES) + 1, (SIZE // PATCH) ** 2, len(tokenizer))
    for at, name in enumerate(CATEGORIES):
        counts[at, :, tokenizer(f" {name}").input_ids] += 1
    for patch, cell in enumerate(patch_cells()):
        words = [word for word in PLACES[cell].split() if word in PLACE_WORDS]
        counts[:, patch, tokenizer("".join(f" {word}" for word in words)).input_ids] += 1
    return counts


@dataclass(frozen=True)
class CaptionPack:
    """An image followed by several turns, each of which attends to the image and itself only.

    All lists have one entry per token. ``segments``: 0 for the image, else the number of the turn.
    ``labels``: the next token, if it belongs to a caption. ``places``: the cell of the object whose name
    ends at this token. ``truths``: 1 or 0 at the end of a claim. Other labels are ignored.
    """

    ids: list[int]
    segments: list[int]
    positions: list[int]
    labels: list[int]
    places: list[int]
    truths: list[int]


def pack(tokenizer: PreTrainedTokenizerFast, one: Layout, lesson: Lesson, rng: random.Random) -> CaptionPack:
    """Pack one image with new captions, each after a prompt, and with claims (no prompt) to be judged."""
    image = tokenizer("<user>" + "<image>" * (SIZE // PATCH) ** 2).input_ids
    shared = len(image)
    unlabelled = [[_IGNORED] * shared for _ in range(3)]
    packed = CaptionPack([*image], [0] * shared, [*range(shared)], *unlabelled)
    turns = [
        (f"{rng.choice(DETAIL_PROMPTS)}<assistant>", f"{lesson.write(one, rng)}</s>")
        for _ in range(_CAPTIONS)
    ]
    claims = [claim(one, rng) for _ in range(_CLAIMS if lesson.judge else 0)]
    for turn, (given, answer) in enumerate([*turns, *((sentence.text, "") for sentence in claims)], 1):
        encoded = tokenizer(given + answer, return_offsets_mapping=True)
        starts, ends = zip(*encoded.offset_mapping, strict=True)
        num_given = sum(start < len(given) for start in starts)
        packed.ids.extend(encoded.input_ids)
        packed.segments.extend([turn] * len(starts))
        packed.positions.extend(range(shared, shared + len(starts)))
        packed.labels.extend([_IGNORED] * (num_given - 1) + encoded.input_ids[num_given:] + [_IGNORED])
        packed.places.extend(_places(one, given + answer, ends))
        truth = _IGNORED if answer else int(set(claims[turn - 1 - _CAPTIONS].names) <= set(one.names))
        packed.truths.extend([_IGNORED] * (len(starts) - 1) + [truth])
    return packed


def _places(one: Layout, text: str, ends: Sequence[int]) -> list[int]:
    cells = dict(one.objects)
    named = {match.end(): cells.get(match.group(), _NOWHERE) for match in _NAMES.finditer(text)}
    return [named.get(end, _IGNORED) for end in ends]


@dataclass(frozen=True)
class Batch:
    """Packs padded to one length: the mask is [n, 1, length, length], all others are [n, length]."""

    ids: Tensor
    labels: Tensor
    places: Tensor
    truths: Tensor
    positions: Tensor
    mask: Tensor

    @classmethod
    def of(cls, packs: Sequence[CaptionPack], pad: int) -> Batch:
        """Pad and stack ``packs``; ``pad`` is the padding token."""
        segments = _pad([pack.segments for pack in packs], -1)
        own = segments[:, :, None] == segments[:, None, :]
        visible = (own | (segments == 0)[:, None, :]).tril()
        return cls(
            ids=_pad([pack.ids for pack in packs], pad),
            labels=_pad([pack.labels for pack in packs], _IGNORED),
            places=_pad([pack.places for pack in packs], _IGNORED),
            truths=_pad([pack.truths for pack in packs], _IGNORED),
            positions=_pad([pack.positions for pack in packs], 0),
            mask=visible[:, None],
        )


def _pad(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
