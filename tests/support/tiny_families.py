"""Random small models of further families, of the real classes with their real processors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from tests.support.tiny import TEMPLATE, TEXT_SIZE, VISION_SIZE
from tests.support.tiny_axes import glm4v, glm4v_moe, lfm2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe
from tests.support.tiny_tokens import token_id, tokenizer

STRINGS = (
    "<s>{% for message in messages %}USER: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
GEMMA_LAYERS = ["sliding_attention", "full_attention"]


def save(name: str, folder: Path, *, seed: int = 0, **change: Any) -> Path:
    """Write a random model of family ``name`` to ``folder``; ``change`` goes to its text config."""
    torch.manual_seed(seed)
    model, processor = MAKERS[name](change)
    tok = processor.tokenizer
    model.generation_config = tf.GenerationConfig(
        eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id, pad_token_id=tok.pad_token_id
    )
    with torch.no_grad():
        for weight in model.parameters():  # norms and gates must not be trivial
            weight.add_(torch.randn_like(weight) * 0.05)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _gemma3(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    text = (
        dict(vocab_size=len(tok), head_dim=8, layer_types=GEMMA_LAYERS, sliding_window=512, **TEXT_SIZE)
        | change
    )
    config = tf.Gemma3Config(
        text_config=text,
        vision_config=dict(model_type="siglip_vision_model", image_size=56, **VISION_SIZE),
        mm_tokens_per_image=4,
        image_token_index=token_id(tok, "<image_soft_token>"),
        boi_token_index=token_id(tok, "<start_of_image>"),
        eoi_token_index=token_id(tok, "<end_of_image>"),
    )
    images = tf.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    template = TEMPLATE.replace("IMAGE", "<start_of_image>")
    processor = tf.Gemma3Processor(images, tok, chat_template="<s>" + template, image_seq_length=4)
    return tf.Gemma3ForConditionalGeneration(config), processor


def _gemma4(change: dict[str, Any]) -> tuple[Any, Any]:
    named = dict(image_token="<|image|>", boi_token="<|image>", eoi_token="<image|>")
    tok = tokenizer(**named, audio_token="<|audio|>", boa_token="<|audio>", eoa_token="<audio|>")
    text = (
        dict(
            vocab_size=len(tok),
            vocab_size_per_layer_input=len(tok),
            hidden_size_per_layer_input=8,
            layer_types=[*GEMMA_LAYERS, *GEMMA_LAYERS],
            num_kv_shared_layers=2,
            sliding_window=512,
            head_dim=8,
            final_logit_softcapping=30.0,
            **{**TEXT_SIZE, "num_hidden_layers": 4},
        )
        | change
    )
    vision = dict(
        **{**VISION_SIZE, "patch_size": 14}, num_key_value_heads=2, head_dim=16, pooling_kernel_size=2
    )
    config = tf.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=None,
        image_token_id=token_id(tok, "<|image|>"),
        boi_token_id=token_id(tok, "<|image>"),
        eoi_token_id=token_id(tok, "<image|>"),
    )
    images = tf.Gemma4ImageProcessor(patch_size=14, max_soft_tokens=70, pooling_kernel_size=2)
    template = TEMPLATE.replace("IMAGE", "<|image|>")
    processor = tf.Gemma4Processor(
        tf.Gemma4AudioFeatureExtractor(),
        images,
        tok,
        tf.Gemma4VideoProcessor(),
        chat_template="<s>" + template,
    )
    return tf.Gemma4ForConditionalGeneration(config), processor


def _internvl(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    vision = dict(image_size=[28, 28], **{**VISION_SIZE, "patch_size": [14, 14]}, initializer_range=0.3)
    config = tf.InternVLConfig(
        text_config=tf.Qwen3Config(vocab_size=len(tok), head_dim=8, **TEXT_SIZE, **change),
        vision_config=tf.InternVLVisionConfig(**vision),
        image_token_id=token_id(tok, "<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    images = tf.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    processor = tf.InternVLProcessor(
        images,
        tok,
        tf.InternVLVideoProcessor(),
        image_seq_length=1,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    return tf.InternVLForConditionalGeneration(config), processor


def _idefics(change: dict[str, Any], *, small: bool) -> tuple[Any, Any]:
    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    tok = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows)
    vision = dict(image_size=28, **VISION_SIZE, initializer_range=0.3)
    text = tf.LlamaConfig(vocab_size=len(tok), **TEXT_SIZE, **change)
    config_class = tf.SmolVLMConfig if small else tf.Idefics3Config
    config = config_class(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id(tok, "<image>"),
        scale_factor=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    options: dict[str, Any] = dict(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    template = TEMPLATE.replace("IMAGE", "<image>")
    if small:
        images, video = tf.SmolVLMImageProcessor(**options), tf.SmolVLMVideoProcessor()
        processor: Any = tf.SmolVLMProcessor(images, tok, video, image_seq_len=1, chat_template=template)
        return tf.SmolVLMForConditionalGeneration(config), processor
    processor = tf.Idefics3Processor(
        tf.Idefics3ImageProcessor(**options), tok, image_seq_len=1, chat_template=template
    )
    return tf.Idefics3ForConditionalGeneration(config), processor


def _idefics3(change: dict[str, Any]) -> tuple[Any, Any]:
    return _idefics(change, small=False)


def _smolvlm(change: dict[str, Any]) -> tuple[Any, Any]:
    return _idefics(change, small=True)


def _pixtral_processor(tok: Any, merge: int) -> Any:
    images = tf.PixtralImageProcessor(size={"longest_edge": 112}, patch_size={"height": 14, "width": 14})
    template = "<s>" + TEMPLATE.replace("IMAGE", "[IMG]")
    return tf.PixtralProcessor(images, tok, patch_size=14, spatial_merge_size=merge, chat_template=template)


def _pixtral_vision() -> Any:
    return tf.PixtralVisionConfig(image_size=112, head_dim=16, initializer_range=0.3, **VISION_SIZE)


def _mistral3(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    text = dict(vocab_size=len(tok), head_dim=8, sliding_window=None, **TEXT_SIZE) | change
    config = tf.Mistral3Config(
        text_config=tf.MistralConfig(**text),
        vision_config=_pixtral_vision(),
        image_token_index=token_id(tok, "[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return tf.Mistral3ForConditionalGeneration(config), _pixtral_processor(tok, 2)


def _pixtral(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    text = dict(vocab_size=len(tok), head_dim=8, sliding_window=None, **TEXT_SIZE) | change
    config = tf.LlavaConfig(
        text_config=tf.MistralConfig(**text),
        vision_config=_pixtral_vision(),
        image_token_index=token_id(tok, "[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return tf.LlavaForConditionalGeneration(config), _pixtral_processor(tok, 1)


def _joycaption(change: dict[str, Any]) -> tuple[Any, Any]:
    """A LLaVA whose template takes strings, writes the image's token itself, and begins with BOS."""
    tok = tokenizer("<image>")
    vision = tf.SiglipVisionConfig(image_size=28, **VISION_SIZE)
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(vocab_size=len(tok), **TEXT_SIZE, **change),
        vision_config=vision,
        image_token_index=token_id(tok, "<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    processor = tf.LlavaProcessor(
        tf.SiglipImageProcessor(size={"height": 28, "width": 28}),
        tok,
        patch_size=14,
        image_token="<image>",
        chat_template=STRINGS.replace("USER: ", "USER: <image>"),
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    )
    return tf.LlavaForConditionalGeneration(config), processor


def _aya_vision(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer(
        "<image>",
        "<|START_OF_IMG|>",
        "<|END_OF_IMG|>",
        "<|IMG_PATCH|>",
        "<|IMG_LINE_BREAK|>",
        "TILE",
        "TILE_GLOBAL",
    )
    text = dict(vocab_size=len(tok), layer_types=GEMMA_LAYERS, sliding_window=512, **TEXT_SIZE) | change
    config = tf.AyaVisionConfig(
        text_config=tf.Cohere2Config(**text),
        vision_config=tf.SiglipVisionConfig(image_size=28, **VISION_SIZE),
        image_token_index=token_id(tok, "<|IMG_PATCH|>"),
        downsample_factor=2,
        vision_feature_layer=-1,
        adapter_layer_norm_eps=1e-6,
    )
    images = tf.GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=4)
    processor = tf.AyaVisionProcessor(
        images,
        tok,
        patch_size=14,
        img_size=28,
        downsample_factor=2,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return tf.AyaVisionForConditionalGeneration(config), processor


def _paligemma(change: dict[str, Any]) -> tuple[Any, Any]:
    tok = tokenizer(image_token="<image>")
    images = tf.SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = tf.PaliGemmaProcessor(images, tok)
    text = (
        dict(
            vocab_size=len(tok),
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=512,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=30.0,
            **TEXT_SIZE,
        )
        | change
    )
    config = tf.PaliGemmaConfig(
        text_config=tf.Gemma2Config(**text),
        vision_config=tf.SiglipVisionConfig(image_size=28, projection_dim=32, **VISION_SIZE),
        image_token_index=token_id(tok, "<image>"),
        projection_dim=32,
    )
    return tf.PaliGemmaForConditionalGeneration(config), processor


MAKERS: dict[str, Callable[[dict[str, Any]], tuple[Any, Any]]] = {
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "lfm2_vl": lfm2_vl,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "internvl": _internvl,
    "idefics3": _idefics3,
    "smolvlm": _smolvlm,
    "mistral3": _mistral3,
    "pixtral": _pixtral,
    "joycaption": _joycaption,
    "glm4v": glm4v,
    "glm4v_moe": glm4v_moe,
    "aya_vision": _aya_vision,
    "paligemma": _paligemma,
}
