"""What the engine needs to know of a vision-language model, the same for every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from visvm.records import DecodedImage


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as the language model reads it: the template's head, then the image tokens.

    ``embeds`` is [P, hidden]; ``positions`` [3, P] (rotary axes; equal but for Qwen-VL);
    ``next_position`` is the position of the first token after it.
    """

    embeds: Tensor
    positions: Tensor
    next_position: int


class Family:
    """A VLM's processor and base model (without the language-model head), behind one interface.

    Subclasses name what differs: the inputs of the image features, and the positions.
    """

    image_inputs: tuple[str, ...] = ("pixel_values",)
    has_position_axes = False

    def __init__(self, base: nn.Module, processor: Any) -> None:
        self.base: Any = base
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id: int = base.config.image_token_id  # type: ignore[assignment,union-attr]
        self.prompt_ids = lru_cache(maxsize=64)(self._prompt_ids)
        _refuse_sliding_window(self.text_config)

    @property
    def text_config(self) -> Any:
        """The configuration of the language model."""
        return self.base.config.text_config

    @property
    def vision(self) -> nn.Module:
        """The vision encoder, with Qwen's merger but without LLaVA's projector."""
        return self.base.vision_tower

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.get_input_embeddings().weight.device

    def chat(self, prompt: str) -> str:
        """The conversation up to where the model answers, with one image placeholder."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The tokens between the image and the answer."""
        ids = self.tokenizer(self.chat(prompt)).input_ids
        return tuple(ids[_last_index(ids, self.image_token_id) + 1 :])

    def text_ids(self, text: str) -> list[int]:
        """The tokens of a text that follows other text (no special tokens added)."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def preprocess(self, images: Sequence[DecodedImage]) -> dict[str, Any]:
        """Pixels and token ids of the images, on the CPU: what ``encode_inputs`` takes."""
        text = [self.chat("")] * len(images)
        pixels = [image.pil for image in images]
        return dict(self.processor(images=pixels, text=text, padding=True, return_tensors="pt"))

    def prefix_lengths(self, inputs: dict[str, Any]) -> list[int]:
        """Tokens of each image, the template's head included, from the output of ``preprocess``."""
        rows = [
            ids[keep.bool()].tolist()
            for ids, keep in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        return [_last_index(row, self.image_token_id) + 1 for row in rows]

    def encode(self, images: Sequence[DecodedImage]) -> list[EncodedImage]:
        """The images as the language model reads them; gradients flow unless switched off."""
        return self.encode_inputs(self.preprocess(images))

    def encode_inputs(self, inputs: dict[str, Any]) -> list[EncodedImage]:
        """As ``encode``, from the output of ``preprocess``."""
        inputs = {key: value.to(self.device) for key, value in inputs.items()}
        features = self._image_features(inputs)
        rows = [
            ids[keep.bool()] for ids, keep in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        return [
            self._join(row, part, inputs, i) for i, (row, part) in enumerate(zip(rows, features, strict=True))
        ]

    def _image_features(self, inputs: dict[str, Tensor]) -> Sequence[Tensor]:
        given = {name: inputs[name] for name in self.image_inputs}
        given["pixel_values"] = given["pixel_values"].to(self.base.get_input_embeddings().weight.dtype)
        return self.base.get_image_features(**given, return_dict=True).pooler_output

    def _join(self, ids: Tensor, features: Tensor, inputs: dict[str, Tensor], i: int) -> EncodedImage:
        head = ids[: _last_index(ids.tolist(), self.image_token_id) + 1]
        is_image = (head == self.image_token_id)[:, None]
        embeds = self.base.get_input_embeddings()(head)
        embeds = embeds.masked_scatter(is_image, features.to(embeds.dtype))
        positions = self._positions(head, inputs, i)
        return EncodedImage(embeds, positions, int(positions.max()) + 1)

    def _positions(self, head: Tensor, inputs: dict[str, Tensor], i: int) -> Tensor:
        return torch.arange(len(head), device=head.device).expand(3, -1)


def _last_index(ids: list[int], token: int) -> int:
    if token not in ids:
        raise ValueError("the processor's chat template has no image placeholder")
    return len(ids) - 1 - ids[::-1].index(token)


def _refuse_sliding_window(text_config: Any) -> None:
    window = getattr(text_config, "sliding_window", None)
    kinds = getattr(text_config, "layer_types", None) or ["full_attention"]
    if (
        window is not None and getattr(text_config, "use_sliding_window", True)
    ) or "sliding_attention" in kinds:
        raise ValueError(f"models with sliding-window attention ({window}) are not supported")
