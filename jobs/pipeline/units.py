"""The units of work of a job: (image, prompt) pairs with stable ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from actors.batch.rows import UNITS
from jobs.inputs import sources
from jobs.inputs.image_list import find_all
from jobs.pipeline.config import PipelineConfig
from visvm.prompts import DETAIL_PROMPTS, prompt_for


def make_units(config: PipelineConfig) -> pa.Table:
    """Return a table of UNITS: each drawn image with its prompts.

    Raises:
        ValueError: the source has no images or too few, or is malformed.
    """
    drawn = sources.draw(find_all(config.images, image_root=config.image_root), config.sample, config.seed)
    rows = [
        {"id": unit_id(image_id, prompt), "image_id": image_id, "uri": uri, "prompt": prompt}
        for image_id, uri in drawn
        if sources.in_shard(image_id, config.shard)
        for prompt in _prompts(config, image_id)
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def unit_id(image_id: str, prompt: str) -> str:
    """Return the id of an (image, prompt) pair, the same in every run."""
    return f"{image_id}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def _prompts(config: PipelineConfig, image_id: str) -> Sequence[str]:
    if config.prompts == "all":
        return DETAIL_PROMPTS
    return [prompt_for(image_id, config.seed) if config.prompts == "one" else config.prompts]
