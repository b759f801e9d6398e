"""Print what a job needs and a cluster has: stages, actors, GPUs, memory, expected hours and cost.

    visvm plan --job caption --config cluster/policy_7b.yaml --set method=visvm \\
        --cluster cluster/sizes/8xh100.yaml
    visvm plan --config runs/triples/config.yaml --rate seconds_per_image=0.4

Without --cluster it is the cluster that RAY_ADDRESS names, else this machine. Exit status 2, in seconds, when
the cluster cannot hold the job: what is missing, and the fix. Every job checks the same before it starts.
Memory and hours follow from formulas and stated rates (`--rate`); no model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from jobs import caption, finetune, generate_triples
from jobs.capacity import cluster_spec
from jobs.capacity.cluster_spec import Cluster
from jobs.capacity.rates import Rates
from jobs.runner.flags import Parser
from jobs.train_value import TrainValueConfig
from visvm.config import load, read_yaml

JobConfig = (
    generate_triples.GenerateConfig | caption.CaptionConfig | TrainValueConfig | finetune.FinetuneConfig
)
JOBS: dict[str, type[JobConfig]] = {
    "generate-triples": generate_triples.GenerateConfig,
    "caption": caption.CaptionConfig,
    "train-value": TrainValueConfig,
    "finetune": finetune.FinetuneConfig,
}
# What a plan does not look at, and so need not be given.
ANY = {"images": "images", "out": "out", "rollouts": ("rollouts",), "captions": ("captions",)}


def table(facts: dict[str, Any]) -> str:
    """Return the facts as text."""
    lines = [f"{facts['job']} on {facts['cluster']}", ""]
    lines.append(f"{'stage':16}{'actors':>10}{'room':>6}{'CPU':>7}{'GPU':>7}{'GB':>8}  each: of which")
    for row in facts["stages"]:
        actors = f"{row['min_actors']}..{row['max_actors']}"
        devices = [", ".join(f"{name} {gb:.1f}" for name, gb in one.items()) for one in row["parts_gb"]]
        numbers = f"{row['room_for']:>6}{row['cpus']:>7g}{row['gpus']:>7g}{row['memory_gb']:>8.1f}"
        lines.append(f"{row['stage']:16}{actors:>10}{numbers}  {'; second GPU: '.join(devices)}")
    return "\n".join([*lines, "", *_time(facts)])


def _time(facts: dict[str, Any]) -> list[str]:
    work = f"{facts['num_images']} images" + (f" x {facts['passes']:g}" if facts["passes"] != 1 else "")
    if facts["hours"] is None:
        return [f"{work}; hours: no rate is known for these nodes or search: give --rate seconds_per_image=X"]
    seconds = f"{facts['seconds_per_image']:.2g} s an image and actor"
    hours = (
        f"{facts['actor_hours']:.3g} actor-hours, {facts['hours']:.3g} hours on {facts['num_nodes']} nodes"
    )
    rates = ", ".join(f"{name} {value:g}" for name, value in facts["rates"].items() if value is not None)
    cost = "not known, give price_per_hour" if facts["cost"] is None else f"{facts['cost']:.2f}"
    nodes = f"{facts['num_nodes']} of the cluster's nodes"
    return [f"{work}: {seconds}, {hours}", f"cost of {nodes}: {cost}", f"rates (--rate, assumed): {rates}"]


def job_of(path: str | None, overrides: Sequence[str]) -> str:
    """Return the one job that takes all keys of a config.

    Raises:
        ValueError: none does, or several do.
    """
    data = read_yaml(path) if path else {}
    keys = {*data, *(item.partition("=")[0].partition(".")[0] for item in overrides)}
    fits = [job for job, config in JOBS.items() if keys <= set(config.model_fields)]
    if len(fits) != 1:
        raise ValueError(f"say what to plan: --job {' or '.join(fits or JOBS)}")
    return fits[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plan; return 0 if the cluster can hold the job, 2 if not."""
    given = _parser().parse_args(argv)
    try:
        job = given.job or job_of(given.config, given.set)
        config = load(JOBS[job], given.config, given.set, **_missing(job, given.config))
        rates = load(Rates, None, given.rate)
        cluster = _cluster(given.cluster)
        from jobs.capacity.job_plan import make_plan

        plan = make_plan(job, config, cluster, num_images=given.num_images, rates=rates)
        facts = plan.facts()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts, indent=2) if given.json else table(facts))
    for problem in facts["problems"]:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if facts["problems"] else 0


def _parser() -> Parser:
    parser = Parser(
        prog="visvm plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--job", choices=list(JOBS), help="the job; needed where a config suits several")
    parser.add_argument("--config", help="the job's config, YAML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override one of its keys"
    )
    parser.add_argument("--cluster", help="YAML file: nodes, their CPUs, memory, GPUs, price_per_hour")
    parser.add_argument("--num-images", type=int, help="default: the config's sample, or the paper's 9215")
    parser.add_argument(
        "--rate", action="append", default=[], metavar="A=B", help=", ".join(Rates.model_fields)
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _missing(job: str, path: str | None) -> dict[str, Any]:
    """Return placeholders for what the job requires, the config leaves out and a plan does not use."""
    data = read_yaml(path) if path else {}
    required = {name for name, field in JOBS[job].model_fields.items() if field.is_required()}
    return {name: value for name, value in ANY.items() if name in required - set(data)}


def _cluster(path: str | None) -> Cluster:
    if path:
        return cluster_spec.read(path)
    if "RAY_ADDRESS" not in os.environ:
        return cluster_spec.this_machine()
    from jobs.runtime import ray_setup

    ray_setup.start()
    return cluster_spec.running()


if __name__ == "__main__":
    sys.exit(main())
