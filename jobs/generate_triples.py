"""Images -> rollouts with rewards -> (sentence, next sentence, reward) triples.

The policy answers each image five times (greedy and four temperatures), CLIP scores every sentence.
Writes OUT/rollouts, OUT/triples and OUT/errors as parquet, and OUT/metrics.json. Killed and started
again, it goes on from what is written.

  visvm generate-triples --images photos/ --policy llava-hf/llava-v1.6-mistral-7b-hf \\
      --reward ViT-L-14-336/openai --sample 9215 --out runs/triples
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator

from actors.batch.generate import Generate, Reward
from jobs.inputs.models import check_policy, check_reward
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.execution import write_units
from jobs.pipeline.stage import Stage
from jobs.pipeline.units import make_units
from jobs.runner.command import run
from jobs.runner.part_files import read_rows
from jobs.runtime import ray_setup
from visvm import storage
from visvm.records import ROLLOUTS, TRIPLES

logger = logging.getLogger(__name__)


class GenerateConfig(PipelineConfig):
    """Configuration of generate-triples."""

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
    """Rollouts, then triples, then the counts."""
    started = time.perf_counter()
    units = make_units(config)
    models = {
        "policy": check_policy(config.policy),
        "reward": check_reward(config.reward, policy=config.policy),
    }
    ray_setup.start(config)
    out, loading = storage.absolute(config.out), ray_setup.loading(config.device, config.dtype)
    stages = make_stages(config, models, loading)
    write_units(units, storage.join(out, "rollouts"), ROLLOUTS, stages=stages, config=config)
    write_triples(out)
    metrics = summary(out)
    logger.info("%(num_triples)d triples of %(num_images)d images, %(num_errors)d units failed", metrics)
    return metrics | {"seconds": time.perf_counter() - started}


def write_triples(out: str) -> None:
    """Explode OUT/rollouts into OUT/triples, file by file."""
    written = set(storage.names(f"{out}/triples", "*.parquet"))
    for name in storage.names(f"{out}/rollouts", "*.parquet"):
        if name not in written:
            rollouts = storage.read_table(f"{out}/rollouts/{name}").to_pylist()
            rows = [row for rollout in rollouts for row in triples(rollout)]
            storage.write_table(f"{out}/triples/{name}", pa.Table.from_pylist(rows, schema=TRIPLES))


def triples(rollout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of TRIPLES of one row of ROLLOUTS; the last sentence of a response has no next one."""
    shared = {key: rollout[key] for key in ("image_id", "uri", "prompt")}
    for index, response in enumerate(rollout["responses"]):
        following = (*response["sentences"], None)[1:]
        steps = zip(response["sentences"], following, response["rewards"], strict=True)
        for step, (sentence, next_sentence, reward) in enumerate(steps):
            yield {
                **shared,
                "response": index,
                "step": step,
                "sentence": sentence,
                "next_sentence": next_sentence,
                "reward": reward,
            }


def summary(out: str) -> dict[str, Any]:
    """The counts of a finished run folder; a triple is a sentence with its successor or the end."""
    images: set[str] = set()
    num_rollouts = num_tokens = 0
    reasons: Counter[str] = Counter()
    num_rewards, total, squares = 0, 0.0, 0.0
    for rollout in read_rows(f"{out}/rollouts"):
        images.add(rollout["image_id"])
        num_rollouts += 1
        for response in rollout["responses"]:
            reasons[response["finish_reason"]] += 1
            num_tokens += response["num_tokens"]
            num_rewards += len(response["rewards"])
            total += sum(response["rewards"])
            squares += sum(reward**2 for reward in response["rewards"])
    mean = total / num_rewards if num_rewards else None
    return {
        "num_images": len(images),
        "num_rollouts": num_rollouts,
        "num_responses": reasons.total(),
        "num_sentences": num_rewards,
        "num_triples": num_rewards,
        "num_errors": sum(1 for _ in read_rows(f"{out}/errors")),
        "num_tokens": num_tokens,
        "finish_reasons": dict(reasons),
        "reward_mean": mean,
        "reward_std": None if mean is None else max(0.0, squares / num_rewards - mean**2) ** 0.5,
    }


def make_stages(
    config: GenerateConfig, models: Mapping[str, str | None], loading: Mapping[str, str]
) -> list[Stage]:
    """The actor pools: one that writes responses, one that scores them; nothing is started."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; the exit status."""
    return run(GenerateConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
