"""Find the threshold on sentence rewards that keeps hallucination below a promised level.

CAPTIONS are a run of `visvm caption` with the reward of every sentence, over annotated images that were used
for nothing else. Writes OUT/calibration.json, which --calibration of `visvm caption` takes: new captions lose
the sentences below its threshold, and their expected risk is at most ALPHA, if their images come from where
the annotated ones do. The work is light, so it runs in one process, without Ray.

  visvm caption --images val/ --method filter --reward runs/head/model --out runs/val
  visvm calibrate --captions runs/val --coco annotations/ --alpha 0.1 --out runs/calibration
  visvm caption --images new/ --method filter --reward runs/head/model \\
      --calibration runs/calibration/calibration.json --out runs/new
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import Field

from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps_of
from visvm import storage
from visvm.config import Config
from visvm.metrics.vocabulary import Variant

logger = logging.getLogger(__name__)


class CalibrateConfig(Config):
    """The captions with the rewards of their sentences, the annotations, and what is promised."""

    captions: str = Field(description="run folder of visvm caption, by --method filter or with --drop-below")
    coco: str = Field(description="folder with COCO's instances_*.json and captions_*.json of its images")
    risk: Literal["chair_s", "chair_i"] = Field(
        "chair_s", description="share of captions with a hallucinated object, or of the objects they name"
    )
    alpha: float = Field(0.1, gt=0, lt=1, description="the promised level of that risk")
    variant: Variant = Field("original", description="CHAIR variant: original, wordnet")
    out: str = Field(description="run folder: calibration.json, metrics.json")

    def inputs(self) -> Inputs:
        """Return the captions."""
        return Inputs(free=stamps_of([storage.absolute(self.captions)]))


def work(config: CalibrateConfig) -> dict[str, Any]:
    """Find the threshold, and write it with what it holds for."""
    from jobs.inputs.caption_files import read_rows
    from visvm.metrics.calibration_file import Calibration
    from visvm.metrics.coco import Annotations
    from visvm.metrics.image_ids import image_key
    from visvm.metrics.risk_control import calibrate, judge

    rows, settings = read_rows(config.captions), _settings(config.captions)
    annotations = Annotations(config.coco)
    ids = annotations.resolve(row["image_id"] for row in rows)
    truth = annotations.truth(ids.values(), variant=config.variant)
    named = [{**row, "image_id": ids[image_key(row["image_id"])]} for row in rows]
    found = calibrate(judge(named, truth, variant=config.variant), risk=config.risk, alpha=config.alpha)
    promise = Calibration(
        **{name: getattr(config, name) for name in ("risk", "alpha", "variant")}, **found, **settings
    )
    storage.write(storage.join(config.out, "calibration.json"), promise.model_dump_json(indent=2) + "\n")
    logger.info("tau = %(tau).6g keeps %(kept).3f of the sentences of %(num_images)d images", found)
    return promise.model_dump()


def _settings(path: str) -> dict[str, Any]:
    """Return what the captions of a run were written with.

    Raises:
        ValueError: it is no run folder, or sentences were dropped in it already.
    """
    from visvm.metrics.calibration_file import SETTINGS, absolute

    saved = storage.join(storage.absolute(path), "config.yaml")
    if not storage.exists(saved):
        raise ValueError(f"captions = {path}: no run folder of visvm caption (config.yaml is missing)")
    config = yaml.safe_load(storage.read(saved))
    threshold = config.get("drop_below")
    if config.get("calibration") or (threshold is not None and threshold > -1):
        raise ValueError(
            f"captions = {path}: sentences were dropped in this run; calibrate on one that keeps them all, by"
            " --method filter without a threshold, or another method with --drop-below -1"
        )
    method = config.get("search") or config["method"]
    return {"method": method, **{name: absolute(config[name]) for name in SETTINGS if name in config}}


def _next(config: CalibrateConfig) -> str:
    return f"visvm caption --images IMAGES --calibration {config.out}/calibration.json --out runs/captions"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(CalibrateConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
