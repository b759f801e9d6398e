"""The units of work of a job: (image, prompt) pairs with stable ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import pyarrow as pa

from actors.batch.rows import UNITS
from jobs.inputs import sources
from jobs.inputs.image_list import find_all
from jobs.inputs.sources.base import without_suffix
from jobs.pipeline.config import PipelineConfig
from visvm.prompts import DETAIL_PROMPTS, prompt_for


def make_units(config: PipelineConfig) -> pa.Table:
    """Return a table of UNITS: each drawn image with its prompts.

    Raises:
        ValueError: the source has no images, or is malformed.
    """
    drawn = sources.draw(find_all(config.images, image_root=config.image_root), config.sample, config.seed)
    rows = [
        {"id": unit_id(source.image_id, prompt), **source._asdict(), "prompt": prompt}
        for source in drawn
        if sources.in_shard(source.seed_id, config.shard)
        for prompt in _prompts(config, source.seed_id)
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def unit_id(image_id: str, prompt: str) -> str:
    """Return the id of an (image, prompt) pair, the same in every run."""
    return f"{image_id}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def keep_ids(units: pa.Table, done_ids: Iterable[str], done_uris: Iterable[str]) -> pa.Table:
    """Return the units, those done by an earlier version under the ids that it gave them.

    It called an image of a folder by its path without the suffix, and with it where two shared the rest.
    """
    done, rows = dict(zip(done_ids, done_uris, strict=True)), units.to_pylist()
    for row in rows:
        image_id = without_suffix(row["image_id"])
        former = unit_id(image_id, row["prompt"])
        if row["id"] not in done and done.get(former) == row["uri"]:
            row |= {"id": former, "image_id": image_id}
    return pa.Table.from_pylist(rows, schema=units.schema)


def _prompts(config: PipelineConfig, image_id: str) -> Sequence[str]:
    if config.prompts == "all":
        return DETAIL_PROMPTS
    return [prompt_for(image_id, config.seed) if config.prompts == "one" else config.prompts]
