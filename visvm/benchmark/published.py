"""The published procedure on plain transformers: each call takes the whole image and text anew.

Six candidates are six calls of ``generate``; a value is a pass over a sequence padded to the published
2,560 positions (here in proportion to the image's tokens); a TD pair is two such passes. ``batched``
is the step that one thinks of first: the candidates of a sentence as rows of one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from visvm.benchmark.workload import Workload
from visvm.families import Family
from visvm.records import DecodedImage

PADDED_LENGTH, IMAGE_TOKENS = 2560, 2340  # the published positions, and the image's share for 640 x 480


class StopAt(StoppingCriteria):
    """Ends a row once its sentence has the workload's length."""

    def __init__(self, workload: Workload, written: int, start: int) -> None:
        self.workload, self.written, self.start = workload, written, start

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        length = input_ids.shape[1] - self.start
        first = input_ids[:, self.start].tolist()
        done = [length >= self.workload.length(self.written, token) for token in first]
        return torch.tensor(done, device=input_ids.device)


def chat_inputs(
    family: Family, image: DecodedImage, prompt: str, more: Tensor | None = None
) -> dict[str, Any]:
    """The processor's inputs of a whole conversation, ``more`` [L] token ids behind it."""
    inputs = family.inputs(image, prompt)
    if more is not None:
        inputs = followed_by(inputs, more)
    return {key: _cast(value, family) for key, value in inputs.items()}


def followed_by(inputs: dict[str, Any], more: Tensor) -> dict[str, Any]:
    """The inputs with further text tokens [L] at the end of their only row."""
    ids, out = inputs["input_ids"], dict(inputs)
    row = more.to(ids.device)[None]
    out["input_ids"] = torch.cat([ids, row], dim=1)
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            out[name] = torch.cat([inputs[name], torch.full_like(row, value)], dim=1)
    return out


def _cast(value: Tensor, family: Family) -> Tensor:
    weight = family.base.get_input_embeddings().weight
    return value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)


def search(
    model: Any, family: Family, images: Sequence[DecodedImage], workload: Workload, *, batched: bool
) -> int:
    """A caption of each image by stepwise search, the last candidate always kept; the tokens sampled."""
    return sum(_search(model, family, image, workload, batched=batched) for image in images)


@torch.inference_mode()
def _search(model: Any, family: Family, image: DecodedImage, workload: Workload, *, batched: bool) -> int:
    written, sampled = torch.empty(0, dtype=torch.long), 0
    for _ in range(workload.num_sentences):
        inputs = chat_inputs(family, image, workload.prompts[0], written)
        start = inputs["input_ids"].shape[1]
        common = dict(
            max_new_tokens=2 * workload.sentence_length,
            stopping_criteria=StoppingCriteriaList([StopAt(workload, len(written), start)]),
            top_p=0.9,
            top_k=0,
        )
        hot = dict(do_sample=True, temperature=workload.temperatures[-1])
        if batched:
            num = len(workload.temperatures)
            rows = model.generate(**inputs, **common, **hot, num_return_sequences=num)[:, start:]
        else:
            rows = [
                model.generate(**inputs, **common, **_sampling(temperature))[0, start:]
                for temperature in workload.temperatures
            ]
        sampled += sum(workload.length(len(written), int(row[0])) for row in rows)
        kept = rows[-1][: workload.length(len(written), int(rows[-1][0]))]
        written = torch.cat([written, kept.cpu()])
    return sampled


@torch.inference_mode()
def greedy(model: Any, family: Family, images: Sequence[DecodedImage], workload: Workload) -> int:
    """A caption of each image by ``generate`` without sampling or search; the tokens written."""
    written = 0
    for image in images:
        inputs, length = chat_inputs(family, image, workload.prompts[0]), workload.caption_length
        out = model.generate(**inputs, max_new_tokens=length, min_new_tokens=length, do_sample=False)
        written += out.shape[1] - inputs["input_ids"].shape[1]
    return written


def _sampling(temperature: float) -> dict[str, Any]:
    return dict(do_sample=True, temperature=temperature) if temperature else dict(do_sample=False)


@torch.inference_mode()
def rollouts(model: Any, family: Family, image: DecodedImage, workload: Workload) -> int:
    """Every response to every prompt by a call of its own; the tokens sampled."""
    sampled = 0
    for prompt in workload.prompts:
        for temperature in (0.0, *workload.temperatures[2 : workload.num_responses + 1]):
            inputs = chat_inputs(family, image, prompt)
            start = inputs["input_ids"].shape[1]
            length = dict(max_new_tokens=workload.response_length, min_new_tokens=workload.response_length)
            out = model.generate(**inputs, **length, **_sampling(temperature), top_p=0.9, top_k=0)
            sampled += out.shape[1] - start
    return sampled


@torch.inference_mode()
def prefill(model: Any, family: Family, image: DecodedImage, workload: Workload) -> int:
    """The image and each prompt, anew for each prompt; the tokens computed."""
    computed = 0
    for prompt in workload.prompts:
        inputs = chat_inputs(family, image, prompt)
        model.model(**inputs)
        computed += inputs["input_ids"].shape[1]
    return computed


def values(model: Any, image: DecodedImage, sentences: tuple[str, ...]) -> tuple[list[Tensor], int]:
    """The value of each sentence by a padded pass of its own; the positions computed."""
    family: Family = model.family
    out, computed = [], 0
    for sentence in sentences:
        more = torch.tensor(model.reader.sentence_ids(sentence, False))
        inputs, last = _padded(family, image, more)
        hidden = model.base(**inputs).last_hidden_state
        out.append(model.head(hidden[0, last]))
        computed += hidden.shape[1]
    return out, computed


def train(model: Any, image: DecodedImage, pairs: list[tuple[str, str | None]], gamma: float) -> int:
    """Gradients of the mean TD loss, each pair by two padded passes; the positions computed."""
    model.zero_grad()
    computed = 0
    for here, after in pairs:
        (value,), positions = values(model, image, (here,))
        target = torch.zeros_like(value)
        computed += positions
        if after is not None:
            with torch.no_grad():
                (following,), positions = values(model, image, (after,))
            target, computed = gamma * following, computed + positions
        ((value - target).square().sum() / len(pairs)).backward()
    return computed


def _padded(family: Family, image: DecodedImage, more: Tensor) -> tuple[dict[str, Any], int]:
    """Inputs of image and sentence, padded as published, and the place of their last token."""
    (cut,) = family.preprocess([image])
    ids = cut["input_ids"][0].tolist()
    whole = followed_by(cut, more)
    length = whole["input_ids"].shape[1]
    image_tokens = ids.count(family.image_token_id)
    room = max(0, round(PADDED_LENGTH / IMAGE_TOKENS * image_tokens) - length)
    padded = followed_by(whole, torch.zeros(room, dtype=torch.long))
    padded["attention_mask"][:, length:] = 0
    return {key: _cast(value, family) for key, value in padded.items()}, length - 1
