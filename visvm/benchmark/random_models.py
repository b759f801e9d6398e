"""Random models of the real classes at the sizes that are measured; weights do not change the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from visvm.benchmark.sizes import WORDS, Size
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import DecodedImage

_TEMPLATE = (
    "{% for message in messages %}{{ ' ASSISTANT:' if message['role'] == 'assistant' else 'USER: ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
_QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>")


def build(size: Size, *, device: str, dtype: torch.dtype, seed: int = 0) -> tuple[Any, Any]:
    """(model, processor): a policy of ``size`` with random weights."""
    torch.manual_seed(seed)
    config, processor = MAKERS[size.family](size)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = tf.AutoModelForImageTextToText.from_config(config)
    finally:
        torch.set_default_dtype(default)
    model.generation_config = tf.GenerationConfig(eos_token_id=2, bos_token_id=1, pad_token_id=0)
    return model.eval(), processor


def configuration(size: Size) -> Any:
    """The configuration of a policy of ``size``."""
    return MAKERS[size.family](size)[0]


def image(size: Size, index: int = 0) -> DecodedImage:
    """An image of noise, different for each index."""
    width, height = size.image
    pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(
        str(index), f"noise:{index}", f"noise-{index}-{width}x{height}", Image.fromarray(pixels)
    )


def _tokenizer(image_token: str) -> Any:
    """Byte-level BPE in which each of WORDS is one token."""
    raw: Any = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "<s>", "</s>", image_token, *_QWEN_SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([" ".join(WORDS) + "."] * 50 + list(DETAIL_PROMPTS) * 10, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=[image_token, *_QWEN_SPECIAL],
        extra_special_tokens={"image_token": image_token, "video_token": "<|video_pad|>"},
    )


def _llava_next(size: Size) -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image>")
    pinpoints = [list(pair) for pair in size.pinpoints]
    config = tf.LlavaNextConfig(
        text_config=tf.MistralConfig(sliding_window=None, **size.text),
        vision_config=tf.CLIPVisionConfig(**size.vision),
        image_grid_pinpoints=pinpoints,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    side = size.vision["image_size"]
    images = tf.LlavaNextImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=pinpoints,
    )
    processor = tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=size.vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=_TEMPLATE.replace("IMAGE", "<image>"),
    )
    return config, processor


def _qwen2_vl(size: Size) -> tuple[Any, Any]:
    tokenizer = _tokenizer("<|image_pad|>")
    find: Callable[[str], Any] = tokenizer.convert_tokens_to_ids
    config = tf.Qwen2VLConfig(
        text_config=size.text,
        vision_config=size.vision,
        image_token_id=find("<|image_pad|>"),
        video_token_id=find("<|video_pad|>"),
        vision_start_token_id=find("<|vision_start|>"),
        vision_end_token_id=find("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    processor = tf.Qwen2VLProcessor(
        tf.Qwen2VLImageProcessor(),
        tokenizer,
        tf.Qwen2VLVideoProcessor(),
        chat_template=_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return config, processor


MAKERS = {"llava_next": _llava_next, "qwen2_vl": _qwen2_vl}
