"""The sizes that are measured, by name: configurations as data."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

_SYLLABLES = ("ba", "di", "ko", "lu", "me", "na", "po", "ri", "su", "te", "va", "zo")
WORDS = tuple("".join(pair) for pair in itertools.permutations(_SYLLABLES, 2))


@dataclass(frozen=True)
class Size:
    """A family's configs, the image's (width, height), and the tile and patch its processor cuts."""

    family: str
    image: tuple[int, int]
    text: dict[str, Any]
    vision: dict[str, Any]
    pinpoints: tuple[tuple[int, int], ...] = field(default=())


_MISTRAL_7B = dict(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=32064,
    rope_theta=1e6,
    max_position_embeddings=32768,
)
_CLIP_L = dict(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=336,
    patch_size=14,
)
_ANYRES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))

SIZES = {
    # 5 tiles of 14 x 14 patches: 196 + 28 * 28 + 28 = 1,008 image tokens. The vocabulary is in proportion:
    # the language-model head has 8 % of the weights, as in Qwen2-VL-7B.
    "bench": Size(
        "llava_next",
        (392, 392),
        dict(
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            vocab_size=4096,
            max_position_embeddings=32768,
        ),
        dict(
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=6,
            num_attention_heads=4,
            image_size=196,
            patch_size=14,
        ),
        ((392, 392),),
    ),
    "7b": Size("llava_next", (640, 480), _MISTRAL_7B, _CLIP_L, _ANYRES),
    "7b-qwen2-vl": Size(
        "qwen2_vl",
        (640, 480),
        dict(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            vocab_size=152064,
            max_position_embeddings=32768,
            rope_parameters={"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
        ),
        dict(depth=32, embed_dim=1280, hidden_size=3584, num_heads=16, patch_size=14, spatial_merge_size=2),
    ),
    # For the tests.
    "tiny": Size(
        "llava_next",
        (56, 56),
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=1024,
        ),
        dict(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        ),
        ((56, 56),),
    ),
}
