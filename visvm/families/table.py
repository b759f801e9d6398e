"""What differs between vision-language models, as data: see docs/families.md."""

from __future__ import annotations

from typing import Any

# Model types whose classes were compared with transformers' own generate.
FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "lfm2_vl",
    "gemma3",
    "gemma4",
    "internvl",
    "idefics3",
    "smolvlm",
    "mistral3",
    "glm4v",
    "glm4v_moe",
    "aya_vision",
    "paligemma",
)
# The whole prompt is read in both directions, so it is part of the prefix.
PROMPT_IN_PREFIX = ("paligemma",)
# Their processors keep the size of an image up to ``size["longest_edge"]`` pixels: 12 million and more as
# checkpoints are published, 16,384 tokens. All others scale or cut it to a size of their own.
SIZED_BY_PIXELS = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm4v_moe",
)
MAX_IMAGE_PIXELS = 4 * 2**20  # about 5,000 tokens
REFUSED = {
    "florence2": "it is an encoder-decoder",
    "mllama": "it attends to images by cross attention",
    "kimi_k25": "it has multi-head latent attention",
}
LAYERS = {
    "chunked_attention": "its layers attend within chunks",
}


def refusal(config: Any) -> str | None:
    """Return why a model with this configuration cannot be exact, as far as the configuration tells."""
    text = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False) or getattr(text, "is_encoder_decoder", False):
        return REFUSED["florence2"]
    if getattr(text, "kv_lora_rank", None):
        return REFUSED["kimi_k25"]
    if getattr(text, "cross_attention_layers", None):
        return REFUSED["mllama"]
    kinds = set(getattr(text, "layer_types", None) or ())
    return next((reason for kind, reason in LAYERS.items() if kind in kinds), None)
