"""Bounds on what a request makes a model read: pixels, and tokens."""

from __future__ import annotations

from typing import Any

from visvm.families.table import SIZED_BY_PIXELS


def cap_pixels(config: Any, processor: Any, most: int) -> None:
    """Let a processor that keeps the size of images scale larger ones down to ``most`` pixels."""
    if config.model_type in SIZED_BY_PIXELS:
        size = processor.image_processor.size
        size["longest_edge"] = min(size["longest_edge"], max(most, size["shortest_edge"]))


def check_length(text_config: Any, num_tokens: int, most: int | None, *, num_image: int = 0) -> None:
    """Check that a prompt has at most ``most`` tokens, and with ``num_image`` of its image fits the context.

    Raises:
        ValueError: it is longer, with the numbers.
    """
    context = getattr(text_config, "max_position_embeddings", None)
    limits = [limit for limit in (most, context) if limit is not None]
    if num_tokens > (limit := min(limits, default=num_tokens)):
        raise ValueError(f"the prompt has {num_tokens} tokens, at most {limit} are read: shorten it")
    if context is not None and num_image + num_tokens > context:
        raise ValueError(
            f"image and prompt have {num_image} + {num_tokens} tokens, the model reads at most {context}:"
            " give a smaller image or a shorter prompt"
        )
