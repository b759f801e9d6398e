"""Random small models of the real classes, saved with tokenizer and processor: the tests' checkpoints.

Weights are drawn large enough that logits differ clearly, so that a wrong key or position shows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from visvm.records import DecodedImage

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
NAMES = ("llava", "llava_next", "llava_next_vicuna", "llava_onevision", "qwen2_vl", "qwen2_5_vl")
TEXT_SIZE: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    initializer_range=0.3,
)
VISION_SIZE: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=14
)


@dataclass(frozen=True)
class Geometry:
    """Image settings of a processor: side of a tile, grids of tiles, largest number of pixels (Qwen)."""

    side: int
    grids: tuple[tuple[int, int], ...]
    max_pixels: int

    @property
    def pinpoints(self) -> list[list[int]]:
        return [[self.side * rows, self.side * columns] for rows, columns in self.grids]


SMALL = Geometry(28, ((1, 2), (2, 1), (2, 2)), 112 * 112)
# As published: LLaVA-Next's and LLaVA-OneVision's tiles, Qwen2-VL's limit.
REAL_NEXT = Geometry(336, ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)), 12845056)
REAL_ONEVISION = Geometry(384, tuple(itertools.product(range(1, 7), repeat=2)), 12845056)
QWEN_SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]


def tokenizer(image_token: str = "<image>") -> tf.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of about 320 tokens."""
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


def save(name: str, folder: Path, *, seed: int = 0, geometry: Geometry = SMALL) -> Path:
    """Write a random model of family ``name`` to ``folder`` for ``from_pretrained``."""
    tok = tokenizer("<|image_pad|>" if name.startswith("qwen") else "<image>")
    torch.manual_seed(seed)
    make = _qwen if name.startswith("qwen") else _llava
    model, processor = make(name, tok, geometry)
    model.generation_config = tf.GenerationConfig(
        eos_token_id=tok.eos_token_id, bos_token_id=tok.bos_token_id, pad_token_id=tok.pad_token_id
    )
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def image(index: int = 0, *, width: int = 40, height: int = 30) -> DecodedImage:
    """Return an image of noise, different for each index."""
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(
        str(index), f"noise:{index}", f"hash{index}-{width}x{height}", Image.fromarray(pixels)
    )


def _llava(name: str, tok: Any, geometry: Geometry) -> tuple[Any, Any]:
    image_token_id, side = tok.convert_tokens_to_ids("<image>"), geometry.side
    common: dict[str, Any] = dict(image_token_id=image_token_id, tie_word_embeddings=False)
    if name == "llava_onevision":
        return _onevision(tok, common, geometry)
    common["vision_config"] = tf.CLIPVisionConfig(image_size=side, initializer_range=0.3, **VISION_SIZE)
    common["vision_feature_layer"] = -1
    sizes: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    llama: Any = tf.LlamaConfig(vocab_size=len(tok), **TEXT_SIZE)
    if name == "llava":
        model: Any = tf.LlavaForConditionalGeneration(tf.LlavaConfig(text_config=llama, **common))
        images, cls = tf.CLIPImageProcessor(**sizes), tf.LlavaProcessor
    else:
        mistral: Any = tf.MistralConfig(vocab_size=len(tok), sliding_window=None, **TEXT_SIZE)
        tiles: dict[str, Any] = {"image_grid_pinpoints": geometry.pinpoints}
        text = llama if name == "llava_next_vicuna" else mistral
        model = tf.LlavaNextForConditionalGeneration(tf.LlavaNextConfig(text_config=text, **common, **tiles))
        images, cls = tf.LlavaNextImageProcessor(**sizes, **tiles), tf.LlavaNextProcessor
    processor = cls(
        images,
        tok,
        patch_size=14,
        image_token="<image>",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return model, processor


def _onevision(tok: Any, common: dict[str, Any], geometry: Geometry) -> tuple[Any, Any]:
    side = geometry.side
    config = tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(vocab_size=len(tok), **TEXT_SIZE),
        vision_config=tf.SiglipVisionConfig(image_size=side, **VISION_SIZE),
        vision_feature_layer=-1,
        image_grid_pinpoints=geometry.pinpoints,
        vision_aspect_ratio="anyres_max_9",
        video_token_id=tok.convert_tokens_to_ids("<|video_pad|>"),
        **common,
    )
    size = {"height": side, "width": side}
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=geometry.pinpoints),
        tok,
        tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // 14) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_token="<image>",
        video_token="<|video_pad|>",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return tf.LlavaOnevisionForConditionalGeneration(config), processor


def _qwen(name: str, tok: Any, geometry: Geometry) -> tuple[Any, Any]:
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
    images = tf.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=geometry.max_pixels)
    processor_cls = tf.Qwen2_5_VLProcessor if new else tf.Qwen2VLProcessor
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return model_cls(config), processor_cls(images, tok, tf.Qwen2VLVideoProcessor(), chat_template=template)
