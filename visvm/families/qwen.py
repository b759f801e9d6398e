"""Qwen2-VL and Qwen2.5-VL: image tokens have positions on three axes (time, height, width)."""

import torch
from torch import Tensor, nn

from visvm.families.base import Family


class QwenVL(Family):
    """Native resolution; text after the image goes on from the largest position + 1."""

    image_inputs = ("pixel_values", "image_grid_thw")
    has_position_axes = True

    @property
    def vision(self) -> nn.Module:
        return self.base.visual

    def _positions(self, head: Tensor, inputs: dict[str, Tensor], i: int) -> Tensor:
        # Always computed here: the model's own rope_deltas are those of its last prefill.
        positions, _ = self.base.get_rope_index(
            head[None],
            mm_token_type_ids=(head == self.image_token_id).int()[None],
            image_grid_thw=inputs["image_grid_thw"][i : i + 1],
            attention_mask=torch.ones_like(head)[None],
        )
        return positions[:, 0]
