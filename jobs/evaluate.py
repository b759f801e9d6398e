"""CHAIR, recall and length of captions, with intervals over images and paired differences.

Captions are output folders of `visvm caption`, parquet, or JSON: lists of {"image_id", "caption"}, one such
object a line, or {"annotations": [...]}, also compressed by gzip. NAME=PATH names the row of the table.
Methods are compared on the images that all of them have. Writes OUT/metrics.json, OUT/table.md and
OUT/table.csv. The work is light (some hundred captions a second on one core), so it runs in one process,
without Ray.

  visvm evaluate --captions captions.json --coco annotations/ --out runs/evaluation
  visvm evaluate --captions greedy=runs/greedy visvm=runs/visvm --coco annotations/ --out runs/table
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import Field

from jobs.inputs.caption_files import Row, parse_source, read_captions
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps_of
from visvm import storage
from visvm.config import Config
from visvm.metrics.image_ids import image_key
from visvm.metrics.vocabulary import Variant

logger = logging.getLogger(__name__)


class EvaluateConfig(Config):
    """Configuration of evaluate: the captions, the ground truth, the metric."""

    captions: list[str] = Field(
        min_length=1, description="[NAME=]PATH of a file of captions or a caption run, each"
    )
    coco: str = Field(description="folder with COCO's instances_*.json and captions_*.json")
    variant: Variant = Field("original", description="CHAIR variant: original, wordnet")
    out: str = Field(description="run folder: metrics.json, table.md, table.csv")
    num_resamples: int = Field(2000, ge=100, description="bootstrap resamples of the images")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")

    def inputs(self) -> Inputs:
        """Return the files that are judged, and those that they are judged by."""
        captions = [parse_source(source)[1] for source in self.captions]
        return Inputs(free=stamps_of([*captions, storage.absolute(self.coco)]))


def work(config: EvaluateConfig) -> dict[str, Any]:
    """Judge the captions and print the tables."""
    from visvm.report.table import at_equal_length, paired_table, results_table

    result = judge(config)
    print(results_table(result["rows"], str))
    if result["paired"]:
        print("\n" + paired_table(result["paired"], str))
        print("\nat equal caption length (*: outside of what was observed)")
        print(paired_table(at_equal_length(result["paired"]), str))
    return result


def judge(config: EvaluateConfig) -> dict[str, Any]:
    """Read and check everything, judge the captions and write the tables; print nothing."""
    from visvm.metrics import Resampling, evaluate
    from visvm.metrics.coco import Annotations
    from visvm.report.table import csv_table, markdown_tables

    captions = read_captions(config.captions)
    annotations = Annotations(config.coco)
    ids = annotations.resolve(row["image_id"] for rows in captions.values() for row in rows)
    captions, left_out = _on_common_images(captions, ids)
    truth = annotations.truth(ids.values(), variant=config.variant)
    resampling = Resampling(num_resamples=config.num_resamples, seed=config.seed)
    result = evaluate(captions, truth, variant=config.variant, resampling=resampling)
    storage.write(storage.join(config.out, "table.md"), markdown_tables(result["rows"], result["paired"]))
    storage.write(storage.join(config.out, "table.csv"), csv_table(result["rows"]))
    runs = {source: _settings(parse_source(source)[1]) for source in config.captions}
    return result | {"num_images_left_out": left_out, "runs": runs}


def _on_common_images(
    captions: Mapping[str, Sequence[Row]], ids: Mapping[str, int | str]
) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """Return the captions of images that all methods have, by annotated id, and how many images each lost.

    Raises:
        ValueError: there is no such image.
    """
    named = {
        name: [{**row, "image_id": ids[image_key(row["image_id"])]} for row in rows]
        for name, rows in captions.items()
    }
    images = {name: {row["image_id"] for row in rows} for name, rows in named.items()}
    common = set.intersection(*images.values())
    if not common:
        raise ValueError(f"no image has a caption of each of {', '.join(captions)}: nothing can be compared")
    left_out = {name: len(own) - len(common) for name, own in images.items() if own != common}
    for name, number in left_out.items():
        logger.warning("%s: %d images that another lacks are left out", name, number)
    if left_out:
        logger.warning(
            "the methods have captions of different images: compared on the %d in common", len(common)
        )
    return {
        name: [row for row in rows if row["image_id"] in common] for name, rows in named.items()
    }, left_out


def _settings(path: str) -> dict[str, Any]:
    """Return what figures of these captions must be quoted with; nothing where no run's config is there."""
    saved = storage.join(path, "config.yaml")
    config = yaml.safe_load(storage.read(saved)) if storage.exists(saved) else {}
    return {name: config[name] for name in ("policy", "prompts", "max_new_tokens", "seed") if name in config}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(EvaluateConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
