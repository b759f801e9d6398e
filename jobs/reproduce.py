"""The paper's tables and figures by one command: searches, fine-tuned policies, step sizes, look-ahead.

    visvm reproduce --model world --size small --out runs/reproduce
    visvm reproduce --config cluster/reproduce_7b.yaml --dry-run --cluster cluster/sizes/8xh100.yaml
    visvm reproduce --config cluster/reproduce_7b.yaml

Table 1 compares greedy, best of 30, CLIP-PRM, MCTS, VisVM and VisVM with a stronger reward, table 2 policies
fine-tuned on their captions: CHAIR, AMBER's coverage, MMHal-Bench, and POPE answered by the captions. The
world runs whole, on sets made from its truth; for the 7B models the paths of COCO, AMBER and MMHal-Bench are
yours. Every stage is another job in a folder below OUT; if it is interrupted, the same command resumes with
the stage it was in. Writes OUT/report.html, OUT/tables.md and OUT/metrics.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobs import world
from jobs.runner.command import parse_all, run, verb_of
from jobs.workflow import benchmarks
from jobs.workflow.benchmarks import AnsweredRow
from jobs.workflow.loop import Loop, world_images
from jobs.workflow.reproduce_config import ReproduceConfig
from jobs.workflow.stages import Metrics, Stages
from visvm import storage
from visvm.config import load

if TYPE_CHECKING:
    from jobs.workflow.plan_stages import PlannedStages


def work(config: ReproduceConfig) -> dict[str, Any]:
    """Run the stages, then write the page and print the tables."""
    from jobs.workflow import reproduce_report

    stages = Stages(storage.absolute(config.out), config.seed, _common(config), config.shared_paths)
    metrics = follow(config, stages)
    print(reproduce_report.write(config, stages, metrics))
    return metrics


def follow(config: ReproduceConfig, stages: Stages) -> dict[str, Any]:
    """Run every stage, or list it if the stages are only planned; return all figures."""
    loop = _loop(config, stages)
    loop.learn()
    curves = loop.choose_centres()
    searched = loop.search()
    tuned, probes = loop.distil(), loop.probe(config.probes)
    curves |= loop.step_sizes()
    units = loop.units(config.units)
    tables = searched | tuned
    result = loop.evaluate("test", "test", tables | probes)
    return {
        "rows": result["rows"],
        "paired": result["paired"],
        "runs": tables,
        "curves": curves,
        "units": units,
        "centres": loop.centres,
        "config": config.model_dump(mode="json"),
        "benchmarks": _benchmarks(config, loop, tables),
    }


def _common(config: ReproduceConfig) -> dict[str, Any]:
    actors = {"min_actors": config.num_actors, "max_actors": config.num_actors}
    small = {"batch_size": 32} if config.model == "world" else {}
    return {"policy": config.policy, "reward": config.reward, **actors, **small, **config.pipeline}


def _loop(config: ReproduceConfig, stages: Stages) -> Loop:
    if config.model == "world":
        images, second = world_images(config, stages), config.second_reward or _second_reward(config, stages)
    else:
        given = {"train": config.train_images, "validation": config.test_images, "test": config.test_images}
        images = {split: str(place) for split, place in given.items()}
        second = config.second_reward
    loop = Loop(config, stages, images, coco=config.annotations, second_reward=second)
    return replace(loop, trained=config.trained)


def _second_reward(config: ReproduceConfig, stages: Stages) -> str | None:
    if "visvm_second_reward" not in config.methods or "visvm_second_reward" in config.trained:
        return None
    stages.run("second_reward", world.reward, world.RewardConfig, {})
    return stages.path("second_reward") + "/model"


def _benchmarks(config: ReproduceConfig, loop: Loop, runs: Mapping[str, str]) -> dict[str, Any]:
    stages = loop.stages
    rows = {name: _answered(loop, name, folder) for name, folder in runs.items()}
    pope = benchmarks.pope_from_captions(stages, loop.coco or loop.images["test"], rows)
    mmhal: dict[str, Metrics]
    if config.model == "world":
        amber, mmhal = benchmarks.amber_by_captions(stages, rows), benchmarks.mmhal_by_captions(stages, rows)
    else:
        amber = benchmarks.amber_by_answers(stages, rows, str(config.amber), config.amber_similar)
        judge = {
            "questions": config.mmhal_questions,
            "prompt": config.mmhal_prompt,
            "endpoint": config.judge_endpoint,
            "model": config.judge_model,
        }
        mmhal = benchmarks.mmhal_by_judge(stages, rows, judge, str(config.mmhal_images))
    return {"pope": pope, "amber": amber, "mmhal": mmhal}


def _answered(loop: Loop, name: str, captions: str) -> AnsweredRow:
    """Return how a row answers: by its search, or greedily by its own fine-tuned policy."""
    if not name.startswith("sft_"):
        return AnsweredRow(loop.options_of(name), captions)
    policy = loop.stages.path(f"sft/{name.removeprefix('sft_')}") + "/model"
    return AnsweredRow({"method": "greedy", "policy": policy}, captions)


def plan(config: ReproduceConfig) -> tuple[str, list[str]]:
    """Return the stages with their GPUs, hours and disk as text, and what the cluster lacks."""
    from jobs.capacity import cluster_spec
    from jobs.capacity.rates import Rates
    from jobs.workflow import plan_stages

    cluster = cluster_spec.read(config.cluster) if config.cluster else cluster_spec.this_machine()
    stages = _planned(config)
    follow(config, stages)
    facts = plan_stages.facts(stages, cluster, load(Rates))
    problems = dict.fromkeys(problem for row in facts for problem in row["problems"])
    return plan_stages.table(facts, cluster), list(problems)


def _planned(config: ReproduceConfig) -> PlannedStages:
    from jobs.workflow.plan_stages import PlannedStages

    sizes = {"train-value": config.num_train, "finetune": config.num_sft}
    return PlannedStages(storage.absolute(config.out), config.seed, _common(config), sizes=sizes)


def _dry_run(config: ReproduceConfig) -> int:
    try:
        text, problems = plan(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _next(config: ReproduceConfig) -> str:
    return f"open {config.out}/report.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job, or print its plan; return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        config, is_printed = parse_all(ReproduceConfig, given, doc=__doc__ or "", verb=verb_of(work))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if config.dry_run and not is_printed:
        return _dry_run(config)
    return run(ReproduceConfig, work, given, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
