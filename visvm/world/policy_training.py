"""The world's policy: LLaVA's real classes, small, trained by its language-model loss on the writer."""

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
from visvm.world import sight
from visvm.world.loop import Budget, LoopProgress, Optimizer, batches
from visvm.world.rendering import SIZE
from visvm.world.scenes import CATEGORIES, CELLS, Layout, layout
from visvm.world.writer import PLACE_WORDS, PLACES, claim

Write = Callable[[Layout, random.Random], str]
_IGNORED = -100
_CAPTIONS = 4  # turns an image and step: its tokens are paid for once
_CLAIMS = 8
_NOWHERE = CELLS  # the label of a name that the image has nothing for
_NAMES = re.compile(rf"\b({'|'.join(sorted(CATEGORIES, key=len, reverse=True))})\b")


def config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The vision encoder of ``sight.config`` and a Llama of 3 layers of width 128."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=128**-0.5,  # the usual 0.02 is for wide models: so narrow a one hardly attends
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlavaConfig(
        vision_config=sight.config(),
        text_config=text,
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        image_seq_length=(SIZE // sight.PATCH) ** 2,
    )


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """LLaVA's processor at the world's image size."""
    square = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size=square, image_mean=sight.MEAN, image_std=sight.STD
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=sight.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def untrained(encoder: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A policy that sees as the vision encoder does and has yet to learn to write.

    Keys start equal to queries, so that from the start a word attends to its like.
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
) -> None:
    """Train the projector alone to turn a patch into the words for what and where it is.

    LLaVA's first stage does this by captions; dense targets (sums of word embeddings) are far
    quicker, and without them so small a model does not learn to look things up in the image.
    """
    embeddings: Any = model.get_input_embeddings().weight
    targets = _meanings(tokenizer) @ embeddings.detach()
    labels = torch.from_numpy(np.stack([sight.patch_labels("train", i) for i in range(len(features))]))
    projector: Any = model.model.multi_modal_projector
    optimizer, progress = Optimizer([projector], budget), LoopProgress("alignment", budget.steps)
    for step, chosen in enumerate(batches(len(features), budget, seed=3)):
        wanted = targets[labels[chosen], torch.arange(labels.shape[1])]
        loss = nn.functional.mse_loss(projector(features[chosen].float()), wanted)
        optimizer.advance(loss)
        progress(step, error=loss / wanted.var())


def train(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    budget: Budget,
    *,
    write: Write,
) -> LlavaForConditionalGeneration:
    """Train projector and language model on new texts for the train split's first images.

    ``features`` [n, 36, 160] are the frozen vision encoder's, so it is not run again. Beside the words,
    two heads that are thrown away learn where the object of every name is, or that it is not there,
    and whether a claim is true: large models can judge a sentence by the image, and a value model
    starts from what its policy can.
    """
    rng = random.Random(budget.steps)
    heads = Heads(model.lm_head.in_features)
    optimizer, progress = Optimizer([model, heads], budget), LoopProgress("policy", budget.steps)
    for step, chosen in enumerate(batches(len(features), budget, seed=rng.randrange(2**32))):
        packs = [pack(tokenizer, int(index), write, rng) for index in chosen]
        batch = Batch.of(packs, tokenizer.pad_token_id)
        words, places, truths = losses(model, heads, features[chosen].float(), batch)
        optimizer.advance(words + places + truths)
        progress(step, words=words, places=places, truths=truths)
    return model


class Heads(nn.Module):
    """Thrown away later: the ``place`` of a name (last class: nowhere), and the ``truth`` of a claim."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, CELLS + 1)
        self.truth = nn.Linear(width, 2)


def losses(
    model: LlavaForConditionalGeneration, heads: Heads, features: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cross-entropies of the captions' tokens, the names' places and the claims' truth.

    ``features`` [n, 36, 160] are the vision encoder's. Places are read before the last layer, so that it can
    gather them at the end of a claim, where the truth is read.
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
    heard = [
        (model.lm_head, out.last_hidden_state, batch.labels),
        (heads.place, out.hidden_states[-2], batch.places),
        (heads.truth, out.last_hidden_state, batch.truths),
    ]
    words, found, judged = (
        nn.functional.cross_entropy(head(states[labels != _IGNORED]), labels[labels != _IGNORED])
        for head, states, labels in heard
    )
    return words, found, judged


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the policy as transformers loads it: weights in half precision, computed in single."""
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.half().save_pretrained(folder)
    settings: Any = model.float().config
    for part in (settings, settings.text_config, settings.vision_config):
        part.dtype = torch.float32
    settings.save_pretrained(folder)
    processor(tokenizer).save_pretrained(folder)


def _meanings(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """[categories + 1, 36, vocabulary]: how often each token names that category in that patch's place."""
    counts = torch.zeros(len(CATEGORIES) + 1, (SIZE // sight.PATCH) ** 2, len(tokenizer))
    for at, name in enumerate(CATEGORIES):
        counts[at, :, tokenizer(f" {name}").input_ids] += 1
    for patch, cell in enumerate(sight.patch_cells()):
        words = [word for word in PLACES[cell].split() if word in PLACE_WORDS]
        counts[:, patch, tokenizer("".join(f" {word}" for word in words)).input_ids] += 1
    return counts


@dataclass(frozen=True)
class CaptionPack:
    """An image followed by several turns, each of which sees the image and itself alone.

    ``segments`` is 0 for the image's tokens and the number of the turn for the others; a label is
    the token that comes next, where that is the caption's; a place is the cell of the object that the
    token ends the name of; a truth is 1 or 0 at the end of a claim.
    """

    ids: list[int]
    segments: list[int]
    positions: list[int]
    labels: list[int]
    places: list[int]
    truths: list[int]


def pack(tokenizer: PreTrainedTokenizerFast, index: int, write: Write, rng: random.Random) -> CaptionPack:
    """One image of the train split with new captions behind prompts, and claims right behind it."""
    image = tokenizer("<user>" + "<image>" * (SIZE // sight.PATCH) ** 2).input_ids
    shared, one = len(image), layout("train", index)
    unlabelled = [[_IGNORED] * shared for _ in range(3)]
    packed = CaptionPack([*image], [0] * shared, [*range(shared)], *unlabelled)
    turns = [(f"{rng.choice(DETAIL_PROMPTS)}<assistant>", f"{write(one, rng)}</s>") for _ in range(_CAPTIONS)]
    claims = [claim(one, rng) for _ in range(_CLAIMS)]
    for turn, (given, answer) in enumerate([*turns, *((sentence.text, "") for sentence in claims)], 1):
        encoded = tokenizer(given + answer, return_offsets_mapping=True)
        starts, ends = zip(*encoded.offset_mapping, strict=True)
        said = sum(start < len(given) for start in starts)
        packed.ids.extend(encoded.input_ids)
        packed.segments.extend([turn] * len(starts))
        packed.positions.extend(range(shared, shared + len(starts)))
        packed.labels.extend([_IGNORED] * (said - 1) + encoded.input_ids[said:] + [_IGNORED])
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
    """Packs side by side: all but the mask [n, length], the mask [n, 1, length, length]."""

    ids: Tensor
    labels: Tensor
    places: Tensor
    truths: Tensor
    positions: Tensor
    mask: Tensor

    @classmethod
    def of(cls, packs: Sequence[CaptionPack], pad: int) -> Batch:
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
