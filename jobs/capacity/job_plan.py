"""The plan of a job on a cluster: what it needs, what fits, how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs import caption, generate_triples
from jobs.capacity import preflight
from jobs.capacity.cluster_spec import GB, GPUS, Cluster
from jobs.capacity.duration import Rates, actor_seconds, worker_seconds
from jobs.capacity.memory import KNOWN
from jobs.capacity.preflight import Demand
from jobs.caption import CaptionConfig
from jobs.generate_triples import GenerateConfig
from jobs.runtime import ray_setup, workers
from jobs.runtime.workers import TrainingJob
from visvm.models import CLIP, check_reward, default_value, resolve
from visvm.search import find_method
from visvm.server_policy.names import is_server

PAPER_IMAGES = 9215
PipelineJob = GenerateConfig | CaptionConfig


@dataclass(frozen=True)
class Plan:
    """A job, the cluster, and what the job needs there."""

    job: str
    config: PipelineJob | TrainingJob
    cluster: Cluster
    demands: list[Demand]
    models: dict[str, str | None]
    num_images: int
    rates: Rates

    def facts(self) -> dict[str, Any]:
        """Return all figures of the plan; None where a rate or price is not known."""
        places, num_placed = preflight.place(self.demands, self.cluster, most=True)
        seconds = self._seconds()
        passes = self.config.epochs if isinstance(self.config, TrainingJob) else 1
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
        if isinstance(self.config, CaptionConfig) and (self.config.search or self.config.scorer):
            return None  # the formula knows neither a search nor a scorer of the user's own
        if is_server(str(self.models.get("policy"))):
            return None  # nor what a server can do
        if isinstance(self.config, TrainingJob):
            return worker_seconds(self.config, gpu, self.rates)
        return actor_seconds(self.config, str(self.models["policy"]), self.models, gpu, self.rates)


def make_plan(
    job: str, config: PipelineJob | TrainingJob, cluster: Cluster, *, num_images: int | None, rates: Rates
) -> Plan:
    """Return the plan of a job; only the names and configurations of its models are read.

    Raises:
        ValueError: a model cannot be found, or its family is not supported.
    """
    if isinstance(config, TrainingJob):
        if config.policy not in KNOWN:
            config = config.model_copy(update={"policy": resolve(config.policy, "policy")})
        demands = [workers.demand(config, cluster)]
        return Plan(job, config, cluster, demands, {}, num_images or PAPER_IMAGES, rates)
    models = models_of(config)
    loading = ray_setup.loading(config.device, config.dtype, cluster)
    if isinstance(config, CaptionConfig):
        stages = caption.make_stages(config, models, loading)
    else:
        stages = generate_triples.make_stages(config, models, loading)
    demands = [stage.demand for stage in stages]
    return Plan(job, config, cluster, demands, models, num_images or config.sample or PAPER_IMAGES, rates)


def models_of(config: PipelineJob) -> dict[str, str | None]:
    """Return the models a pipeline will load; a value model not trained yet counts as large as the policy."""
    policy = config.policy
    if policy not in KNOWN and not is_server(policy):
        policy = resolve(policy, "policy")
    needs: str = "reward"
    value: str | None = None
    if isinstance(config, CaptionConfig):
        needs = "none" if config.scorer else find_method(config.search_name).needs
        value = config.value or default_value(policy)
    is_value = needs in caption.PREDICTS
    return {
        "policy": policy,
        "reward": _reward(config) if "reward" in needs else None,
        "value": (resolve(value, "value") if value else policy) if is_value else None,
    }


def _reward(config: PipelineJob) -> str:
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
