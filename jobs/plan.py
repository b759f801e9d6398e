"""What a job needs and a cluster has: stages, actors, GPUs, memory, expected hours and cost.

    visvm plan --job caption --config cluster/policy_7b.yaml --set method=visvm \\
        --cluster cluster/sizes/8xh100.yaml
    visvm plan --config runs/triples/config.yaml --rate seconds_per_image=0.4

Without --cluster it is the cluster that RAY_ADDRESS names, else this machine. Exit status 2, in seconds, when
the cluster cannot hold the job: what is missing, and the fix. Every job looks the same way before it starts.
Memory and hours follow from formulas and stated rates (`--rate`); no model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs import caption, finetune, generate_triples
from jobs.capacity import cluster_spec, preflight
from jobs.capacity.cluster_spec import GB, GPUS, Cluster
from jobs.capacity.duration import Rates, actor_seconds, worker_seconds
from jobs.capacity.memory import KNOWN
from jobs.capacity.preflight import Demand
from jobs.inputs.models import CLIP, check_reward, default_value, resolve
from jobs.runtime import ray_setup, workers
from jobs.train_value import TrainValueConfig
from visvm.config import Config, load, read_yaml
from visvm.search import METHODS

PAPER_IMAGES = 9215
JOBS: dict[str, type[Config]] = {
    "generate-triples": generate_triples.GenerateConfig,
    "caption": caption.CaptionConfig,
    "train-value": TrainValueConfig,
    "finetune": finetune.FinetuneConfig,
}
# What a plan does not look at, and so need not be given.
ANY = {"images": "images", "out": "out", "rollouts": ("rollouts",), "captions": ("captions",)}


@dataclass(frozen=True)
class Plan:
    """A job on a cluster."""

    job: str
    config: Any
    cluster: Cluster
    demands: list[Demand]
    models: dict[str, str | None]
    num_images: int
    rates: Rates

    def facts(self) -> dict[str, Any]:
        """All figures of the plan; None where a rate or price is not known."""
        places, num_placed = preflight.place(self.demands, self.cluster, most=True)
        seconds, passes = self._seconds(), getattr(self.config, "epochs", 1)
        worked = None if seconds is None else self.num_images * passes * seconds / 3600
        used = [place.node for place in places if any(place.on_gpu) or place.on_host]
        price = sum(node.price_per_hour or 0 for node in used) if used else 0
        hours = None if worked is None else worked / max(1, num_placed[0])
        is_priced = hours is not None and all(node.price_per_hour is not None for node in used)
        return {
            "job": self.job,
            "cluster": str(self.cluster),
            "stages": [_row(*pair) for pair in zip(self.demands, num_placed, strict=True)],
            "num_images": self.num_images,
            "passes": passes,
            "seconds_per_image": seconds,
            "actor_hours": worked,
            "hours": hours,
            "num_nodes": len(used),
            "cost": price * hours if is_priced and hours is not None else None,
            "rates": self.rates.model_dump(),
            "problems": preflight.shortfalls(self.demands, self.cluster),
        }

    def _seconds(self) -> float | None:
        if self.rates.seconds_per_image:
            return self.rates.seconds_per_image
        gpu = next((GPUS[group.gpu] for group in self.cluster.nodes if group.gpu in GPUS), None)
        if gpu is None or not any(demand.gpus for demand in self.demands):
            return None
        if self.job in ("train-value", "finetune"):
            return worker_seconds(self.config, gpu, self.rates)
        return actor_seconds(self.config, str(self.models["policy"]), self.models, gpu, self.rates)


def make_plan(job: str, config: Any, cluster: Cluster, *, num_images: int | None, rates: Rates) -> Plan:
    """The plan of a job; its models are looked at by name and configuration only.

    Raises:
        ValueError: a model cannot be found, or is of no supported family.
    """
    models: dict[str, str | None] = {}
    if job in ("train-value", "finetune"):
        if config.policy not in KNOWN:
            config = config.model_copy(update={"policy": resolve(config.policy, "policy")})
        demands = [workers.demand(config, cluster)]
    else:
        models = models_of(config)
        loading = ray_setup.loading(config.device, config.dtype, cluster)
        make = generate_triples.make_stages if job == "generate-triples" else caption.make_stages
        demands = [stage.demand for stage in make(config, models, loading)]
    given = num_images or getattr(config, "sample", None) or PAPER_IMAGES
    return Plan(job, config, cluster, demands, models, given, rates)


def models_of(config: Any) -> dict[str, str | None]:
    """The models a pipeline will load; a value model that is not there yet is as large as the policy."""
    policy = config.policy if config.policy in KNOWN else resolve(config.policy, "policy")
    needs = METHODS[config.method].needs if hasattr(config, "method") else "reward"
    is_value = needs in caption.PREDICTS
    value = getattr(config, "value", None) or default_value(policy)
    return {
        "policy": policy,
        "reward": _reward(config) if "reward" in needs else None,
        "value": (resolve(value, "value") if value else policy) if is_value else None,
    }


def _reward(config: Any) -> str:
    is_known = config.reward == "auto" and config.policy in KNOWN  # without a look at the hub
    return check_reward(CLIP if is_known else config.reward, policy=config.policy)


def _row(demand: Demand, num: int) -> dict[str, Any]:
    parts = [{name: size / GB for name, size in one.items()} for one in demand.parts]
    return {
        "stage": demand.stage,
        "min_actors": demand.count,
        "max_actors": demand.most,
        "room_for": num,
        "cpus": demand.cpus,
        "gpus": demand.gpus,
        "memory_gb": demand.memory / GB,
        "parts_gb": parts,
    }


def table(facts: dict[str, Any]) -> str:
    """The facts as text."""
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
        return [f"{work}; hours: no rate is known for these nodes, give --rate seconds_per_image=..."]
    seconds = f"{facts['seconds_per_image']:.2g} s an image and actor"
    hours = (
        f"{facts['actor_hours']:.3g} actor-hours, {facts['hours']:.3g} hours on {facts['num_nodes']} nodes"
    )
    rates = ", ".join(f"{name} {value:g}" for name, value in facts["rates"].items() if value is not None)
    cost = "not known, give price_per_hour" if facts["cost"] is None else f"{facts['cost']:.2f}"
    nodes = f"{facts['num_nodes']} of the cluster's nodes"
    return [f"{work}: {seconds}, {hours}", f"cost of {nodes}: {cost}", f"rates (--rate, assumed): {rates}"]


def job_of(path: str | None, overrides: Sequence[str]) -> str:
    """The one job that takes all keys of a config.

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
    """Print the plan; 0 if the cluster can hold the job, 2 if not."""
    given = _parser().parse_args(argv)
    try:
        job = given.job or job_of(given.config, given.set)
        config = load(JOBS[job], given.config, given.set, **_missing(job, given.config))
        rates = load(Rates, None, given.rate)
        cluster = _cluster(given.cluster)
        plan = make_plan(job, config, cluster, num_images=given.num_images, rates=rates)
        facts = plan.facts()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts, indent=2) if given.json else table(facts))
    for problem in facts["problems"]:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if facts["problems"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    """Placeholders for what the job requires, the config leaves open and a plan does not look at."""
    data = read_yaml(path) if path else {}
    required = {name for name, field in JOBS[job].model_fields.items() if field.is_required()}
    return {name: value for name, value in ANY.items() if name in required - set(data)}


def _cluster(path: str | None) -> Cluster:
    if path:
        return cluster_spec.read(path)
    if "RAY_ADDRESS" not in os.environ:
        return cluster_spec.this_machine()
    ray_setup.start()
    return cluster_spec.running()


if __name__ == "__main__":
    sys.exit(main())
