"""The README.md of a run folder that holds tables: `datasets.load_dataset(RUN)` reads it."""

from __future__ import annotations

import yaml

from visvm import storage
from visvm.training.config import TAGS

# Folder of parquet files -> what a row is; the first one that a run has is what load_dataset(RUN) returns.
TABLES = {
    "captions": "a caption of an image, with the trace of its search",
    "rollouts": "the policy's responses to an image and a prompt, with the rewards of their sentences",
    "triples": "a sentence, the sentence after it, and the reward",
    "answers": "an answer to a question about an image",
    "errors": "an input that could not be used, and why",
}


def write(run: str) -> None:
    """Write RUN/README.md if the run has tables: what they hold, and how `datasets` finds them."""
    tables = [name for name in TABLES if storage.names(storage.join(run, name), "*.parquet")]
    if not tables:
        return
    configs = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in tables]
    head = {"configs": [{**configs[0], "default": True}, *configs[1:]], "tags": [*TAGS]}
    rows = "\n".join(f"| `{name}` | {TABLES[name]} |" for name in tables)
    text = f"""---
{yaml.safe_dump(head, sort_keys=False)}---
# A run of visvm

| configuration | a row is |
|---|---|
{rows}

`metrics.json` has the counts. In Python: `datasets.load_dataset("this folder", "{tables[0]}")`.
"""
    storage.write(storage.join(run, "README.md"), text)
