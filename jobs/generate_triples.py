"""Images -> rollouts with rewards -> (sentence, next sentence, reward) triples.

The policy answers each image five times (greedy and four temperatures), CLIP scores every sentence.
Writes OUT/rollouts, OUT/triples and OUT/errors as parquet, and OUT/metrics.json. If it is
interrupted, the same command resumes it.

  visvm generate-triples --images photos/ --policy llava-hf/llava-v1.6-mistral-7b-hf \\
      --reward ViT-L-14-336/openai --sample 9215 --out runs/triples
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from jobs.pipeline.config import PipelineConfig
from jobs.runner.command import run
from visvm import storage

if TYPE_CHECKING:
    from jobs.pipeline.stage import Stage

logger = logging.getLogger(__name__)


class GenerateConfig(PipelineConfig):
    """How the responses are sampled and scored."""

    OPERATIONAL = PipelineConfig.OPERATIONAL | {"reward_num_gpus"}

    temperatures: tuple[float, ...] = Field(
        (0.0, 0.2, 0.4, 0.6, 0.8), description="one response each; 0 is greedy"
    )
    reward_num_gpus: float = Field(0.2, gt=0, description="GPUs of the reward actor, if the device is a GPU")

    @field_validator("temperatures")
    @classmethod
    def _not_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) < 0:
            raise ValueError("expected one or more temperatures of at least 0")
        return value


def work(config: GenerateConfig) -> dict[str, Any]:
    """Write the rollouts, then the triples; return the counts."""
    from jobs.pipeline.execution import write_units
    from jobs.pipeline.triples import summary, write_triples
    from jobs.runtime import ray_setup
    from visvm.models import check_reward, check_writer
    from visvm.schemas import ROLLOUTS

    started = time.perf_counter()
    units = config.units
    models = {
        "policy": check_writer(config.policy),
        "reward": check_reward(config.reward, policy=config.policy),
    }
    ray_setup.start(config)
    out, loading = storage.absolute(config.out), ray_setup.loading(config.device, config.dtype)
    stages = make_stages(config, models, loading)
    num_retried = write_units(units, storage.join(out, "rollouts"), ROLLOUTS, stages=stages, config=config)
    write_triples(out)
    metrics = summary(out)
    logger.info("%(num_triples)d triples of %(num_images)d images, %(num_errors)d units failed", metrics)
    return metrics | {"num_retried": num_retried, "seconds": time.perf_counter() - started}


def make_stages(
    config: GenerateConfig, models: Mapping[str, str | None], loading: Mapping[str, str]
) -> list[Stage]:
    """Return the actor pools, one that writes responses and one that scores them; nothing is started."""
    from actors.batch.generate import Generate, Reward
    from jobs.pipeline.stage import Stage

    on_gpu = loading["device"] == "cuda"
    generate = Stage(
        Generate,
        {
            "policy": {"name": models["policy"], **loading, **config.policy_options},
            "temperatures": config.temperatures,
            "seed": config.seed,
        },
        min_actors=config.min_actors,
        max_actors=config.max_actors,
        num_gpus=config.num_gpus if on_gpu else 0,
    )
    score = Stage(
        Reward,
        {"reward": {"name": models["reward"], **loading}},
        num_cpus=0.5,
        num_gpus=config.reward_num_gpus if on_gpu else 0,
    )
    return [generate, score]


def _next(config: GenerateConfig) -> str:
    return f"visvm train-value --policy {config.policy} --rollouts {config.out} --out runs/value"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(GenerateConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
