"""CHAIR, recall and length of captions, with intervals over images and paired differences.

Captions are JSON lists of {"image_id", "caption"} or output folders of `visvm caption`; NAME=PATH
names the row of the table. The work is light (some hundred captions a second on one core), so
it runs in one process, without Ray.

  visvm evaluate --captions captions.json --coco annotations/ --out runs/evaluation
  visvm evaluate --captions greedy=runs/greedy visvm=runs/visvm --coco annotations/ --out runs/table
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import yaml
from pydantic import Field

from jobs.runner.command import run
from jobs.runner.run_folder import is_complete
from visvm import storage
from visvm.config import Config
from visvm.metrics.vocabulary import Variant
from visvm.tables import read_rows

COLUMNS = (
    *("image_id", "caption", "sentences", "values", "prompt", "method", "finish_reason"),
    *("num_generated_tokens", "num_value_calls", "seconds"),
)
logger = logging.getLogger(__name__)


class EvaluateConfig(Config):
    """Configuration of evaluate: the captions, the ground truth, the metric."""

    captions: list[str] = Field(min_length=1, description="[NAME=]PATH of a JSON file or caption run, each")
    coco: str = Field(description="folder with COCO's instances_*.json and captions_*.json")
    variant: Variant = Field("original", description="CHAIR variant: original, wordnet")
    out: str = Field(description="run folder: metrics.json")
    num_resamples: int = Field(2000, ge=100, description="bootstrap resamples of the images")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")


def work(config: EvaluateConfig) -> dict[str, Any]:
    """Judge the captions and print the tables."""
    from visvm.report.table import at_equal_length, paired_table, results_table

    result = judge(config)
    print(results_table(result["rows"]))
    if result["paired"]:
        print("\n" + paired_table(result["paired"]))
        print("\nat equal caption length (*: outside of what was observed)")
        print(paired_table(at_equal_length(result["paired"])))
    return result


def judge(config: EvaluateConfig) -> dict[str, Any]:
    """Read and check everything, then judge the captions; print nothing."""
    from visvm.metrics import Resampling, evaluate, read_truth

    captions = read_captions(config.captions)
    image_ids = (row["image_id"] for rows in captions.values() for row in rows)
    truth = read_truth(config.coco, image_ids, variant=config.variant)
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    result = evaluate(captions, truth, variant=config.variant, resampling=resampling)
    return result | {"runs": {source: _settings(_named(source)[1]) for source in config.captions}}


def read_captions(sources: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The captions of each source, by its name: as given, else the run's method or the file's name.

    Raises:
        ValueError: nothing there, malformed (which caption, what is wrong), or two with one name.
    """
    captions: dict[str, list[dict[str, Any]]] = {}
    for source in sources:
        given, path = _named(source)
        rows = _read_json(path) if path.endswith(".json") else _read_run(path)
        _check(path, rows)
        name = given or rows[0].get("method") or PurePosixPath(path).stem
        if name in captions:
            raise ValueError(f"two of the captions are called {name!r}: tell them apart by NAME=PATH")
        captions[name] = rows
    return captions


def _named(source: str) -> tuple[str | None, str]:
    name, equals, path = source.partition("=")
    is_file = not storage.is_remote(path) and storage.exists(source)  # with "=" in its name
    if not equals or "/" in name or is_file:
        return None, storage.absolute(source)
    return name, storage.absolute(path)


def _read_json(path: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(storage.read(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read captions {path}: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f'{path}: expected a list of {{"image_id", "caption"}}')
    return rows


def _read_run(path: str) -> list[dict[str, Any]]:
    rows = read_rows(path, "captions", columns=COLUMNS)
    if storage.exists(storage.join(path, "config.yaml")) and not is_complete(path):
        logger.warning("%s is not complete: its captions so far are judged", path)
    return rows


def _check(path: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise ValueError(f"{path}: no captions in it")
    for i, row in enumerate(rows):
        if not _is_caption(row):
            raise ValueError(f"{path}: caption {i} needs an image_id and a caption (text), got {row!r:.200}")


def _is_caption(row: Any) -> bool:
    if not isinstance(row, dict) or isinstance(row.get("image_id"), bool):
        return False
    return isinstance(row.get("image_id"), int | str) and isinstance(row.get("caption"), str)


def _settings(path: str) -> dict[str, Any]:
    """What figures of these captions must be quoted with; empty where no run's config lies there."""
    saved = storage.join(path, "config.yaml")
    config = yaml.safe_load(storage.read(saved)) if storage.exists(saved) else {}
    return {name: config[name] for name in ("policy", "prompts", "max_new_tokens", "seed") if name in config}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(EvaluateConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
