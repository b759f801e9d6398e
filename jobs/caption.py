"""Captions of images by a method of search.

Writes OUT/captions (with the trace of every choice) and OUT/errors as parquet, the captions as
OUT/captions.jsonl too, and OUT/metrics.json. Run the same command again to resume.

  visvm caption --images photos/ --method visvm --value runs/value/model --out runs/captions
  visvm caption --images a.jpg 'more/*.png' --method prm --scorer my_scorer:MyScorer --out runs/own
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from jobs.pipeline.config import PipelineConfig
from jobs.runner.command import run
from jobs.runner.inputs import Inputs, stamps
from jobs.runner.part_files import read_rows
from visvm import storage
from visvm.config import ModelName, Place
from visvm.prompts import DETAIL_PROMPTS
from visvm.search import METHODS, SearchConfig

if TYPE_CHECKING:
    from jobs.pipeline.stage import Stage

PREDICTS = {"value": "value", "reward+future": "future"}
JSONL_KEYS = (
    *("image_id", "uri", "prompt", "method", "caption", "sentences", "values", "finish_reason"),
    *("num_generated_tokens", "num_value_calls", "seconds", "calibration"),
)
JSONL_CAPTIONS = 100_000  # more are left to the parquet files: the JSON lines are written from memory
NUM_SHOWN = 3  # captions that the command prints
logger = logging.getLogger(__name__)


class CaptionConfig(PipelineConfig, SearchConfig):
    """Configuration of caption: the images and models, and the options of the search."""

    images: Place | tuple[Place, ...] = Field(  # type: ignore[assignment]
        min_length=1,
        description="image files, globs, folders, parquet files or COCO annotation .json; one or more",
    )
    method: str = Field("greedy", description=", ".join(METHODS))
    value: ModelName | None = Field(
        None,
        description="visvm, reward_plus_future: directory or hub id (default: the world's for its policy)",
    )
    scorer: str | None = Field(
        None, description="a scorer of your own, MODULE:NAME, in place of the method's reward and value model"
    )
    search: str | None = Field(None, description="a search of your own, MODULE:NAME, in place of --method")
    prompts: str = Field(DETAIL_PROMPTS[0], description='a prompt, "one" drawn for each image or "all" nine')
    calibration: Place | None = Field(
        None, description="calibration.json of visvm calibrate: drop what lies below its threshold"
    )
    centre: float | None = Field(  # type: ignore[assignment]
        None,
        description="reward at which a sentence is worth nothing, for visvm, reward_plus_future (default:"
        " as trained) and oracle (default: 0); a higher one ends captions sooner",
    )

    @field_validator("method")
    @classmethod
    def _is_method(cls, value: str) -> str:
        if value not in METHODS:
            raise ValueError(f"expected one of {', '.join(METHODS)}")
        return value

    @field_validator("images")
    @classmethod
    def _single(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """A list of one is that one, as in the configs of runs before there were lists."""
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    @model_validator(mode="after")
    def _own_fit(self) -> Self:
        if self.search and self.method != "greedy":
            raise ValueError("give --method or --search, not both")
        if self.scorer and not self.search and METHODS[self.method].needs == "none":
            raise ValueError(
                f"method {self.method} uses no scorer: choose one that does, such as prm or visvm"
            )
        return self

    def inputs(self) -> Inputs:
        """Return the images, and the models and the calibration, which must not change."""
        found = super().inputs()
        given = [storage.absolute(self.calibration)] if self.calibration else []
        return Inputs(free=found.free, fixed={**found.fixed, **stamps(given)})

    @property
    def search_name(self) -> str:
        """The method, or the user's own search."""
        return self.search or self.method


def work(config: CaptionConfig) -> dict[str, Any]:
    """Write the captions, then count them."""
    from jobs.pipeline.execution import write_units
    from jobs.runtime import ray_setup
    from visvm.schemas import CAPTIONS

    started = time.perf_counter()
    config = calibrated(config)
    units = config.units
    models = check_models(config)
    note_strange_images(config.policy, [row["uri"] for row in units.slice(0, NUM_SHOWN).to_pylist()])
    ray_setup.start(config)
    out, loading = storage.absolute(config.out), ray_setup.loading(config.device, config.dtype)
    stages = make_stages(config, models, loading)
    num_retried = write_units(units, storage.join(out, "captions"), CAPTIONS, stages=stages, config=config)
    write_jsonl(out)
    metrics = summary(out)
    logger.info("%(num_captions)d captions of %(num_images)d images, %(num_errors)d failed", metrics)
    return metrics | {"num_retried": num_retried, "seconds": time.perf_counter() - started}


def calibrated(config: CaptionConfig) -> CaptionConfig:
    """Return the config with the threshold of its calibration, if it has one.

    Raises:
        ValueError: the calibration cannot be read, or was made for another policy, method or reward.
    """
    if config.calibration is None:
        return config
    from visvm.metrics.calibration_file import SETTINGS, read_calibration

    if config.drop_below is not None:
        raise ValueError("give --calibration or --drop-below, not both")
    found = read_calibration(config.calibration)
    found.check(method=config.search_name, **{name: getattr(config, name) for name in SETTINGS})
    return config.model_copy(update={"drop_below": found.tau})


def _promise(config: CaptionConfig) -> dict[str, Any] | None:
    """Return what each row reports of the calibration."""
    from visvm.metrics.calibration_file import read_calibration

    return read_calibration(config.calibration).brief() if config.calibration else None


def summary(out: str) -> dict[str, Any]:
    """Return the counts of a finished run folder; means are over captions."""
    rows = list(read_rows(f"{out}/captions"))
    means = {
        name: fmean(row[name] for row in rows) if rows else None
        for name in ("num_generated_tokens", "num_value_calls", "seconds")
    }
    return {
        "num_images": len({row["image_id"] for row in rows}),
        "num_captions": len(rows),
        "num_errors": sum(1 for _ in read_rows(f"{out}/errors")),
        "num_sentences": sum(len(row["sentences"]) for row in rows),
        "finish_reasons": dict(Counter(row["finish_reason"] for row in rows)),
        "num_generated_tokens": means["num_generated_tokens"],
        "num_value_calls": means["num_value_calls"],
        "seconds_per_caption": means["seconds"],
    }


def write_jsonl(out: str) -> None:
    """Write OUT/captions.jsonl: one caption per line, with the keys of JSONL_KEYS."""
    rows = list(islice(read_rows(f"{out}/captions"), JSONL_CAPTIONS + 1))
    if len(rows) > JSONL_CAPTIONS:
        logger.info("captions.jsonl is left out above %d captions: read the parquet files", JSONL_CAPTIONS)
        return
    rows.sort(key=lambda row: row["id"])
    lines = [json.dumps({key: row[key] for key in JSONL_KEYS}, ensure_ascii=False) + "\n" for row in rows]
    storage.write(f"{out}/captions.jsonl", "".join(lines))


def note_strange_images(policy: str, uris: Sequence[str]) -> None:
    """Say so if the world's policy is about to see images that are not of its world."""
    from visvm import images
    from visvm.captioner import WORLD_ONLY, is_of_world
    from visvm.models import is_world

    if not is_world(policy):
        return
    for uri in uris:
        try:
            image = images.load(uri)
        except ValueError:  # becomes a row of errors/
            continue
        if not is_of_world(image):
            logger.warning("%s: %s", uri, WORLD_ONLY)
            return


def check_models(config: CaptionConfig) -> dict[str, str | None]:
    """Return the resolved models that the search needs; nothing is loaded yet."""
    from visvm.models import check_reward, check_value, check_writer
    from visvm.plugins import check_scorer_name
    from visvm.search import find_method, make_search
    from visvm.server_policy import names

    judges = make_search(config.search_name, config).judges
    policy = check_writer(config.policy)
    if config.unit != "sentence" and names.is_server(policy):
        raise ValueError(f"unit = {config.unit!r}: a policy behind a server writes sentences only")
    if config.scorer:
        return {"policy": policy, "reward": None, "value": None, "own": check_scorer_name(config.scorer)}
    needs = find_method(config.search_name).needs
    predict = PREDICTS.get(needs)
    return {
        "policy": policy,
        "reward": check_reward(config.reward, policy=config.policy) if "reward" in needs or judges else None,
        "value": check_value(config.value, policy=policy, predict=predict) if predict else None,
        "own": None,
    }


def make_stages(
    config: CaptionConfig, models: Mapping[str, str | None], loading: Mapping[str, str]
) -> list[Stage]:
    """Return the one actor pool of the method; with two GPUs the value model has its own."""
    from actors.batch.caption import CaptionWriter
    from jobs.capacity.memory import SECOND_GPU
    from jobs.pipeline.stage import Stage

    on_gpu = loading["device"] == "cuda"
    second = {"device": SECOND_GPU} if on_gpu and config.num_gpus >= 2 else {}
    search = {name: getattr(config, name) for name in SearchConfig.model_fields}
    arguments = {
        "policy": {"name": models["policy"], **loading, **config.policy_options},
        "method": config.search_name,
        "search": search | {"centre": config.centre or 0.0, "calibration": _promise(config)},
        "scorer": {
            "reward": {"name": models["reward"], **loading} if models["reward"] else None,
            "value": {
                "name": models["value"],
                "centre": config.centre,
                "max_images": config.max_images,  # more are never asked for at a time
                **loading,
                **second,
            }
            if models["value"]
            else None,
            "own": models.get("own"),
        },
        "seed": config.seed,
    }
    stage = Stage(
        CaptionWriter,
        arguments,
        min_actors=config.min_actors,
        max_actors=config.max_actors,
        num_gpus=config.num_gpus if on_gpu else 0,
    )
    return [stage]


def _tell(config: CaptionConfig) -> str:
    """Print the first captions, and return the next command."""
    out = storage.absolute(config.out)
    for row in islice(read_rows(f"{out}/captions"), NUM_SHOWN):
        print(f"{row['image_id']}: {row['caption'].strip()}")
    return f"visvm show {config.out}   (all are in {out}/captions.jsonl and {out}/captions)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(CaptionConfig, work, argv, doc=__doc__ or "", next_command=_tell)


if __name__ == "__main__":
    sys.exit(main())
