"""Captions of images by a method of search.

Writes OUT/captions (with the trace of every choice) and OUT/errors as parquet, and OUT/metrics.json.
Killed and started again, it goes on from what is written.

  visvm caption --images photos/ --method visvm --value runs/value/model --out runs/captions
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from jobs.pipeline.config import PipelineConfig
from jobs.runner.command import run
from jobs.runner.part_files import read_rows
from visvm import storage
from visvm.config import ModelName
from visvm.prompts import DETAIL_PROMPTS
from visvm.search import METHODS, SearchConfig

if TYPE_CHECKING:
    from jobs.pipeline.stage import Stage

PREDICTS = {"value": "value", "reward+future": "future"}
logger = logging.getLogger(__name__)


class CaptionConfig(PipelineConfig, SearchConfig):
    """Configuration of caption: the images and models, and the options of the search."""

    method: str = Field("greedy", description=", ".join(METHODS))
    value: ModelName | None = Field(
        None,
        description="visvm, reward_plus_future: directory or hub id (default: the world's for its policy)",
    )
    prompts: str = Field(DETAIL_PROMPTS[0], description='a prompt, "one" drawn for each image or "all" nine')
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


def work(config: CaptionConfig) -> dict[str, Any]:
    """Captions, then the counts."""
    from jobs.pipeline.execution import write_units
    from jobs.pipeline.units import make_units
    from jobs.runtime import ray_setup
    from visvm.schemas import CAPTIONS

    started = time.perf_counter()
    units = make_units(config)
    models = _check_models(config)
    ray_setup.start(config)
    out, loading = storage.absolute(config.out), ray_setup.loading(config.device, config.dtype)
    stages = make_stages(config, models, loading)
    num_retried = write_units(units, storage.join(out, "captions"), CAPTIONS, stages=stages, config=config)
    metrics = summary(out)
    logger.info("%(num_captions)d captions of %(num_images)d images, %(num_errors)d failed", metrics)
    return metrics | {"num_retried": num_retried, "seconds": time.perf_counter() - started}


def summary(out: str) -> dict[str, Any]:
    """The counts of a finished run folder; means are over captions."""
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


def _check_models(config: CaptionConfig) -> dict[str, str | None]:
    """The resolved models that the method needs; nothing is loaded yet."""
    from jobs.inputs.models import check_policy, check_reward, check_value

    policy, needs = check_policy(config.policy), METHODS[config.method].needs
    predict = PREDICTS.get(needs)
    return {
        "policy": policy,
        "reward": check_reward(config.reward, policy=config.policy) if "reward" in needs else None,
        "value": check_value(config.value, policy=policy, predict=predict) if predict else None,
    }


def make_stages(
    config: CaptionConfig, models: Mapping[str, str | None], loading: Mapping[str, str]
) -> list[Stage]:
    """The one actor pool of the method; nothing is started. With two GPUs the value model has its own."""
    from actors.batch.caption import CaptionWriter
    from jobs.capacity.memory import SECOND_GPU
    from jobs.pipeline.stage import Stage

    on_gpu = loading["device"] == "cuda"
    second = {"device": SECOND_GPU} if on_gpu and config.num_gpus >= 2 else {}
    search = {name: getattr(config, name) for name in SearchConfig.model_fields}
    arguments = {
        "policy": {"name": models["policy"], **loading, **config.policy_options},
        "method": config.method,
        "search": search | {"centre": config.centre or 0.0},
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


def _next(config: CaptionConfig) -> str:
    return f"visvm show {config.out}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(
        CaptionConfig, work, argv, doc=__doc__ or "", next_command=lambda config: f"visvm show {config.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
