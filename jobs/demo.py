"""The whole loop on the embedded world: rollouts, value model, search, fine-tuning, table and report.

    visvm demo                                  about ten minutes on two cores
    visvm demo --size full --out runs/full      a thousand test images, every curve; hours

Every stage is another job in a folder below OUT; if it is interrupted, the same command resumes with the
stage it was in. Writes OUT/metrics.json and OUT/report.html.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.runner.command import run
from jobs.workflow.loop import Loop, world_images
from jobs.workflow.loop_config import LoopConfig
from jobs.workflow.stages import Stages
from visvm import storage
from visvm.config import Place

FULL = {
    "num_train": 3000,
    "num_sft": 2000,
    "num_validation": 200,
    "num_test": 1000,
    "num_oracle": 200,
    "num_step_sizes": 150,
    "methods": ("greedy", "best_of_5", "best_of_30", "prm", "mcts", "visvm", "reward_plus_future"),
    "value_seeds": 3,
    "centres": (0.85, 0.9, 0.92, 0.94, 0.96, 1.0),
    "step_sizes": (1, 2, 4, 8, 16),
    "value": {"epochs": 2},
}


class DemoConfig(LoopConfig):
    """The numbers of the demo; --size sets those that are not given."""

    out: Place = Field("runs/demo", description="folder of the run")
    size: Literal["small", "full"] = Field("small", description="small or full")
    num_examples: int = Field(12, ge=0, description="test images in the report")

    @model_validator(mode="before")
    @classmethod
    def _size(cls, data: Any) -> Any:
        is_full = isinstance(data, Mapping) and data.get("size") == "full"
        return {**FULL, **data} if is_full else data

    @field_validator("methods")
    @classmethod
    def _has_one_reward(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "visvm_second_reward" in value:
            raise ValueError("the demo has one reward; `visvm reproduce` has a second")
        return value


def make_loop(config: LoopConfig) -> Loop:
    """Return the loop on images, a policy and a reward of the world."""
    common = {"policy": "world", "reward": "world", "min_actors": config.num_actors}
    common |= {"max_actors": config.num_actors, "batch_size": 32}
    stages = Stages(storage.absolute(config.out), config.seed, common, config.shared_paths)
    return Loop(config, stages, world_images(config, stages))


def work(config: DemoConfig) -> dict[str, Any]:
    """Follow the recipe, then write the report and print the table with the differences that matter."""
    from jobs.workflow import demo_report
    from visvm.report.table import paired_table, results_table

    demo = make_loop(config)
    demo.learn()
    curves = demo.choose_centres()
    runs = demo.search() | demo.distil()
    curves |= demo.step_sizes()
    result = demo.evaluate("test", "test", runs)
    metrics = {
        "rows": result["rows"],
        "paired": result["paired"],
        "calibration": result.get("calibration", {}),  # an evaluation of an earlier version has none
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "centres": demo.centres,
        "curves": curves,
    }
    demo_report.write(demo.stages, runs, metrics)
    print(f"\n{results_table(metrics['rows'])}")
    print(f"\n{paired_table(demo_report.main_differences(metrics['paired']))}\n")
    return metrics


def _next(config: DemoConfig) -> str:
    return f"open {config.out}/report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(DemoConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
