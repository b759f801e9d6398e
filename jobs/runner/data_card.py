"""The README.md of a run folder that holds tables: `datasets.load_dataset(RUN)` reads it."""

from __future__ import annotations

import yaml

from visvm import storage
from visvm.training.config import TAGS

# Folder of parquet files -> what a row is; the first one that a run has is what load_dataset(RUN) returns.
TABLES = {
    "pairs": "a prompt about an image with a chosen and a rejected answer, as TRL's DPOTrainer takes it",
    "kto": "an answer, and whether the search chose its last sentence, as TRL's KTOTrainer takes it",
    "prm": "the sentences of an answer with a label each (TRL's stepwise supervision)",
    "captions": "a caption of an image, with the trace of its search where there was one",
    "rollouts": "the policy's responses to an image and a prompt, with the rewards of their sentences",
    "triples": "a sentence, the sentence after it, and the reward",
    "answers": "an answer to a question about an image",
    "errors": "an input that could not be used, and why",
}
JSON = "data.json"  # of visvm export, for programs that read JSON with images beside it


def write(run: str) -> None:
    """Write RUN/README.md if the run has tables: what they hold, and how `datasets` finds them."""
    files = {
        name: f"{name}/*.parquet" for name in TABLES if storage.names(storage.join(run, name), "*.parquet")
    }
    if storage.exists(storage.join(run, JSON)):
        files["data"] = JSON
    if not files:
        return
    configs = [{"config_name": name, "data_files": found} for name, found in files.items()]
    head = {"configs": [{**configs[0], "default": True}, *configs[1:]], "tags": [*TAGS]}
    rows = "\n".join(f"| `{name}` | {TABLES.get(name, 'a conversation about an image')} |" for name in files)
    text = f"""---
{yaml.safe_dump(head, sort_keys=False)}---
# A run of visvm

| configuration | a row is |
|---|---|
{rows}

`metrics.json` has the counts. In Python: `datasets.load_dataset("this folder", "{next(iter(files))}")`.
"""
    storage.write(storage.join(run, "README.md"), text)
