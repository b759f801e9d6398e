"""Responses of any generator (vLLM, an API, people) -> rollouts with rewards and triples.

A row of --responses (JSON lines or a JSON list) names an image of --images, a prompt and its responses:
{"image": "a.jpg", "prompt": "...", "responses": ["...", {"text": "...", "finish_reason": "length"}]}.
Each is split into sentences, which CLIP scores as it does for generate-triples. Writes what that writes:
OUT/rollouts, OUT/triples, OUT/errors and OUT/metrics.json; docs/formats.md has every key. Resumable.

  visvm import --images photos/ --responses vllm.jsonl \\
      --policy Qwen/Qwen2.5-VL-7B-Instruct --out runs/rollouts
  visvm train-value --policy Qwen/Qwen2.5-VL-7B-Instruct --rollouts runs/rollouts --out runs/value
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.inputs.stamps import image_stamps, model_stamps
from jobs.pipeline.config import ImagesConfig
from jobs.runner.command import run
from jobs.runner.inputs import Inputs
from visvm import storage
from visvm.config import ModelName, Place
from visvm.prompts import DETAIL_PROMPTS

if TYPE_CHECKING:
    from jobs.inputs.sources import Source

logger = logging.getLogger(__name__)


class ImportConfig(ImagesConfig):
    """The responses, what they were made by, and the reward."""

    OPERATIONAL = ImagesConfig.OPERATIONAL | {"reward_num_gpus"}

    responses: Place = Field(description="JSON lines or a JSON list of image, prompt and responses")
    policy: ModelName = Field("world", description="the VLM that wrote them, which --reward auto goes by")
    prompt: str = Field(DETAIL_PROMPTS[0], description="the prompt of rows that name none")
    reward_num_gpus: float = Field(0.2, gt=0, description="GPUs of the reward actor, if the device is a GPU")

    @cached_property
    def sources(self) -> list[Source]:
        """The images, listed once for a run."""
        from jobs.inputs.image_list import find_all

        return find_all(self.images, image_root=self.image_root)

    def inputs(self) -> Inputs:
        """Return the responses and the images, of which there may be others the next time, and the models."""
        images = [source.uri for source in self.sources]
        return Inputs(
            free=image_stamps([storage.absolute(self.responses), *images]), fixed=model_stamps(self)
        )


def work(config: ImportConfig) -> dict[str, Any]:
    """Score the responses and write rollouts and triples; return the counts."""
    from actors.batch.generate import ROLLED, RewardOfOthers
    from jobs.inputs.responses import make_units, read_responses
    from jobs.pipeline.execution import write_units
    from jobs.pipeline.stage import Stage
    from jobs.pipeline.triples import summary, write_triples
    from jobs.runtime import ray_setup
    from visvm.models import check_reward
    from visvm.schemas import ROLLOUTS

    answered = read_responses(storage.absolute(config.responses), config.prompt)
    units = make_units(answered, config.sources, ROLLED)
    reward = check_reward(config.reward, policy=config.policy)
    ray_setup.start(config)
    out, loading = storage.absolute(config.out), ray_setup.loading(config.device, config.dtype)
    num_gpus = config.reward_num_gpus if loading["device"] == "cuda" else 0
    stage = Stage(RewardOfOthers, {"reward": {"name": reward, **loading}}, num_gpus=num_gpus)
    write_units(units, storage.join(out, "rollouts"), ROLLOUTS, stages=[stage], config=config)
    write_triples(out)
    metrics = summary(out)
    logger.info("%(num_triples)d triples of %(num_images)d images, %(num_errors)d units failed", metrics)
    return metrics


def _next(config: ImportConfig) -> str:
    return f"visvm train-value --policy {config.policy} --rollouts {config.out} --out runs/value"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(ImportConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
