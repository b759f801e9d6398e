"""The detail prompts: nine of the instructions of LLaVA's COCO detail set (Liu et al. 2023).

Which nine VisVM used is not published. These are the nine that ask for a description; the two of the set
that ask for an interpretation ("What do you think is going on in this snapshot?", "What is this photo
about?") are left out.
"""

from __future__ import annotations

import hashlib

# Data: the prompts are quoted as published, so two of them say "picture".
DETAIL_PROMPTS = (
    "Describe the following image.",
    "Can you elaborate on the elements of the picture provided?",
    "Explain the visual content of the image in great detail.",
    "Write a detailed description of the given image.",
    "Can you describe the main features of this image for me?",
    "What do you see happening in this image?",
    "What are the key elements in this picture?",
    "Analyze the image in a comprehensive and detailed manner.",
    "What's happening in the scene?",
)


def prompt_for(image_id: str, seed: int = 0) -> str:
    """Draw one of ``DETAIL_PROMPTS`` by (seed, image_id) alone: the same in every process."""
    digest = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
    return DETAIL_PROMPTS[int.from_bytes(digest[:8], "big") % len(DETAIL_PROMPTS)]
