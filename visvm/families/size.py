"""How large a vision-language model is, by its configuration alone: no weights are loaded."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from visvm.engine.attention import use_row_attention
from visvm.engine.row_state import use_row_states
from visvm.families import check_supported
from visvm.families.base import probe

# Image tokens of an image of 640 x 480, where they depend on its shape: as the processors of the published
# models cut it (measured for LLaVA and Qwen2-VL; by their patch and tile sizes for the others).
IMAGE_TOKENS = {
    "llava_next": 2340,
    "llava_onevision": 2929,
    "qwen2_vl": 391,
    "qwen2_5_vl": 391,
    "qwen3_vl": 300,
    "qwen3_vl_moe": 300,
    "qwen3_5": 300,
    "qwen3_5_moe": 300,
    "lfm2_vl": 256,
    "gemma3": 256,
    "gemma4": 280,
    "internvl": 3328,
    "idefics3": 2197,
    "smolvlm": 1105,
    "mistral3": 414,
    "glm4v": 391,
    "glm4v_moe": 391,
    "aya_vision": 2197,
}


@dataclass(frozen=True)
class ModelSize:
    """The numbers that memory and time follow from.

    ``token_values`` are the keys and values kept for a token, over all layers; ``image_tokens`` those
    of an image of 640 x 480, ``state_bytes`` what layers without attention keep for each image and row.
    """

    num_parameters: int
    num_layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    token_values: int
    image_tokens: int
    state_bytes: int = 0


def model_size(config: Any) -> ModelSize:
    """The size of a VLM by its config object; its layers are laid out on the meta device and counted.

    Raises:
        ValueError: the model is not of a supported family.
    """
    family, text = check_supported(config), config.get_text_config()
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(deepcopy(config))
    use_row_attention(model.model)
    use_row_states(model.model.get_decoder())
    layout = probe(model.model.get_decoder())
    return ModelSize(
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None)
        or text.moe_intermediate_size * text.num_experts_per_tok,
        vocabulary=text.vocab_size,
        token_values=layout.token_values,
        state_bytes=layout.state_bytes,
        image_tokens=IMAGE_TOKENS.get(family) or _square(config.vision_config),
    )


def _square(vision: Any) -> int:
    return (vision.image_size // vision.patch_size) ** 2
