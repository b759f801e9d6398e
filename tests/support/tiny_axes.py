"""Random small models whose positions have three axes: Qwen3-VL and GLM-4V, dense and with experts."""

from __future__ import annotations

from typing import Any

import transformers as tf

from tests.support.tiny import TEMPLATE, TEXT_SIZE
from tests.support.tiny_tokens import token_id, tokenizer

QWEN3_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}


def qwen3_vl(change: dict[str, Any], *, moe: bool = False) -> tuple[Any, Any]:
    tok = tokenizer(
        "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    text = dict(vocab_size=len(tok), rope_parameters=QWEN3_ROPE, head_dim=8, **TEXT_SIZE) | change
    if moe:
        text |= dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1)
    vision = dict(
        depth=3,
        hidden_size=32,
        out_hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        deepstack_visual_indexes=[0, 1],
        num_position_embeddings=64,
        initializer_range=0.3,
    )
    ids = dict(
        image_token_id=token_id(tok, "<|image_pad|>"),
        video_token_id=token_id(tok, "<|video_pad|>"),
        vision_start_token_id=token_id(tok, "<|vision_start|>"),
        vision_end_token_id=token_id(tok, "<|vision_end|>"),
    )
    config_class = tf.Qwen3VLMoeConfig if moe else tf.Qwen3VLConfig
    model_class = tf.Qwen3VLMoeForConditionalGeneration if moe else tf.Qwen3VLForConditionalGeneration
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112, patch_size=14),
        tok,
        tf.Qwen3VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return model_class(config), processor


def qwen3_vl_moe(change: dict[str, Any]) -> tuple[Any, Any]:
    return qwen3_vl(change, moe=True)


def glm4v(change: dict[str, Any], *, moe: bool = False) -> tuple[Any, Any]:
    tok = tokenizer(
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        image_token="<|image|>",
        video_token="<|video|>",
    )
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    }
    text = (
        dict(vocab_size=len(tok), rope_parameters=rope, pad_token_id=0, eos_token_id=2, **TEXT_SIZE) | change
    )
    if moe:
        text |= dict(
            n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, first_k_dense_replace=1
        )
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=14,
        image_size=112,
        spatial_merge_size=2,
        temporal_patch_size=2,
        initializer_range=0.3,
    )
    ids = dict(
        image_token_id=token_id(tok, "<|image|>"),
        video_token_id=token_id(tok, "<|video|>"),
        image_start_token_id=token_id(tok, "<|begin_of_image|>"),
        image_end_token_id=token_id(tok, "<|end_of_image|>"),
        video_start_token_id=token_id(tok, "<|begin_of_video|>"),
        video_end_token_id=token_id(tok, "<|end_of_video|>"),
    )
    config_class = tf.Glm4vMoeConfig if moe else tf.Glm4vConfig
    model_class = tf.Glm4vMoeForConditionalGeneration if moe else tf.Glm4vForConditionalGeneration
    config = config_class(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    processor = tf.Glm4vProcessor(
        tf.Glm4vImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112}),
        tok,
        tf.Glm4vVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<|begin_of_image|><|image|><|end_of_image|>"),
    )
    return model_class(config), processor


def glm4v_moe(change: dict[str, Any]) -> tuple[Any, Any]:
    return glm4v(change, moe=True)


def qwen3_5(change: dict[str, Any], *, moe: bool = False) -> tuple[Any, Any]:
    """Two layers of linear attention and one of full attention."""
    tok = tokenizer(
        "<|vision_start|>", "<|vision_end|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    text = dict(
        vocab_size=len(tok),
        rope_parameters=QWEN3_ROPE | {"partial_rotary_factor": 1.0},
        head_dim=8,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        **{**TEXT_SIZE, "num_hidden_layers": 3},
    )
    if moe:
        text |= dict(
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
        )
        del text["intermediate_size"]
    vision = dict(
        depth=2,
        hidden_size=32,
        out_hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        num_position_embeddings=64,
        initializer_range=0.3,
    )
    ids = dict(
        image_token_id=token_id(tok, "<|image_pad|>"),
        video_token_id=token_id(tok, "<|video_pad|>"),
        vision_start_token_id=token_id(tok, "<|vision_start|>"),
        vision_end_token_id=token_id(tok, "<|vision_end|>"),
    )
    config_class = tf.Qwen3_5MoeConfig if moe else tf.Qwen3_5Config
    model_class = tf.Qwen3_5MoeForConditionalGeneration if moe else tf.Qwen3_5ForConditionalGeneration
    config = config_class(text_config=text | change, vision_config=vision, tie_word_embeddings=False, **ids)
    processor = tf.Qwen3VLProcessor(
        tf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112, patch_size=14),
        tok,
        tf.Qwen3VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return model_class(config), processor


def qwen3_5_moe(change: dict[str, Any]) -> tuple[Any, Any]:
    return qwen3_5(change, moe=True)


def lfm2_vl(change: dict[str, Any]) -> tuple[Any, Any]:
    """Two short convolutions and one layer of attention."""
    tok = tokenizer(
        image_token="<image>",
        image_start_token="<|image_start|>",
        image_end_token="<|image_end|>",
        image_thumbnail_token="<|img_thumbnail|>",
    )
    text = dict(
        vocab_size=len(tok),
        layer_types=["conv", "full_attention", "conv"],
        block_auto_adjust_ff_dim=False,
        **{**TEXT_SIZE, "num_hidden_layers": 3},
    )
    vision = dict(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=14,
        num_patches=64,
        initializer_range=0.3,
    )
    config = tf.Lfm2VlConfig(
        text_config=tf.Lfm2Config(**(text | change)),
        vision_config=tf.Siglip2VisionConfig(**vision),
        image_token_id=token_id(tok, "<image>"),
        projector_hidden_size=32,
        downsample_factor=2,
        tie_word_embeddings=False,
    )
    images = tf.Lfm2VlImageProcessor(
        encoder_patch_size=14,
        downsample_factor=2,
        tile_size=56,
        max_num_patches=64,
        min_image_tokens=4,
        max_image_tokens=16,
        do_image_splitting=False,
    )
    processor = tf.Lfm2VlProcessor(images, tok, chat_template=TEMPLATE.replace("IMAGE", "<image>"))
    return tf.Lfm2VlForConditionalGeneration(config), processor
