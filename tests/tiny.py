"""Random small models of the real classes, saved with tokenizer and processor: the tests' checkpoints.

Weights are drawn large enough that logits differ clearly, so that a wrong key or position shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from visvm.records import Picture

TEXT = [
    "A dog sits on a red bench. A cat sleeps under the table near the window.",
    "Two people ride bikes along the street! The sky is blue and clear.",
    "There is a cup on the table. The scene looks calm, as on a quiet morning.",
]
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
NAMES = ("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
TEXT_SIZE: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    initializer_range=0.3,
)
VISION = tf.CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    initializer_range=0.3,
)
QWEN_SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


def tokenizer(image_token: str = "<image>") -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 320 tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", image_token, *QWEN_SPECIAL]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(TEXT * 3, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[image_token, *QWEN_SPECIAL],
        padding_side="right",
        extra_special_tokens={"image_token": image_token, "video_token": "<|video_pad|>"},
    )


def save(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model of family ``name`` to ``folder``: what ``from_pretrained`` reads."""
    tok = tokenizer("<|image_pad|>" if name.startswith("qwen") else "<image>")
    torch.manual_seed(seed)
    model, processor = _qwen(name, tok) if name.startswith("qwen") else _llava(name, tok)
    model.generation_config = tf.GenerationConfig(
        eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id, pad_token_id=tok.pad_token_id
    )
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(index: int = 0, *, width: int = 40, height: int = 30) -> Picture:
    """A picture of noise, different for each index."""
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(str(index), f"noise:{index}", f"hash{index}-{width}x{height}", Image.fromarray(pixels))


def _llava(name: str, tok: Any) -> tuple[Any, Any]:
    common: dict[str, Any] = dict(
        vision_config=VISION,
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    size = {"height": 28, "width": 28}
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    template = TEMPLATE.replace("IMAGE", "<image>")
    if name == "llava":
        text: Any = tf.LlamaConfig(vocab_size=len(tok), **TEXT_SIZE)
        model: Any = tf.LlavaForConditionalGeneration(
            tf.LlavaConfig(text_config=text, vision_feature_layer=-1, **common)
        )
        images: Any = tf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
        cls: Any = tf.LlavaProcessor
        extra = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    elif name == "llava_next":
        text = tf.MistralConfig(vocab_size=len(tok), sliding_window=None, **TEXT_SIZE)
        model = tf.LlavaNextForConditionalGeneration(
            tf.LlavaNextConfig(
                text_config=text, vision_feature_layer=-1, image_grid_pinpoints=pinpoints, **common
            )
        )
        images = tf.LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=pinpoints
        )
        cls = tf.LlavaNextProcessor
        extra = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    else:
        return _onevision(tok, common, template, pinpoints)
    return model, cls(images, tok, patch_size=14, image_token="<image>", chat_template=template, **extra)


def _onevision(
    tok: Any, common: dict[str, Any], template: str, pinpoints: list[list[int]]
) -> tuple[Any, Any]:
    vision = tf.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(vocab_size=len(tok), **TEXT_SIZE),
        vision_feature_layer=-1,
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_9",
        video_token_id=tok.convert_tokens_to_ids("<|video_pad|>"),
        **(common | {"vision_config": vision}),
    )
    images = tf.LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints)
    processor = tf.LlavaOnevisionProcessor(
        images,
        tok,
        tf.LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_token="<image>",
        video_token="<|video_pad|>",
        chat_template=template,
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(name: str, tok: Any) -> tuple[Any, Any]:
    new = name == "qwen2_5_vl"
    ids = {
        "image_token_id": tok.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tok.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tok.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tok.convert_tokens_to_ids("<|vision_end|>"),
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = dict(vocab_size=len(tok), rope_parameters=rope, bos_token_id=1, eos_token_id=2, **TEXT_SIZE)
    vision: dict[str, Any] = dict(
        depth=2, num_heads=2, patch_size=14, spatial_merge_size=2, temporal_patch_size=2
    )
    if new:
        vision |= dict(
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=64,
            fullatt_block_indexes=[1],
            window_size=56,
        )
    else:
        vision |= dict(embed_dim=32, hidden_size=32, mlp_ratio=2)
    config_cls = tf.Qwen2_5_VLConfig if new else tf.Qwen2VLConfig
    model_cls = tf.Qwen2_5_VLForConditionalGeneration if new else tf.Qwen2VLForConditionalGeneration
    config = config_cls(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    images = tf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    processor_cls = tf.Qwen2_5_VLProcessor if new else tf.Qwen2VLProcessor
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return model_cls(config), processor_cls(images, tok, tf.Qwen2VLVideoProcessor(), chat_template=template)
