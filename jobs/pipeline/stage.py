"""One Ray Data stage of a pipeline: an actor pool, and the resources it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from actors.batch.fault_isolation import FaultIsolatingActor
from jobs.capacity.memory import actor_bytes
from jobs.capacity.preflight import Demand


@dataclass(frozen=True)
class Stage:
    """An actor pool; ``arguments`` are the actor's keywords (names and options, no weights)."""

    actor: type
    arguments: dict[str, Any]
    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def demand(self) -> Demand:
        """Return the resources that the pool needs."""
        return Demand(
            self.actor.__name__,
            self.min_actors,
            self.max_actors,
            cpus=self.num_cpus,
            gpus=self.num_gpus,
            parts=actor_bytes(self.arguments),
        )

    def apply(self, dataset: ray.data.Dataset, attempts: Any) -> ray.data.Dataset:
        """Return a dataset of packed batches with this stage appended."""
        # Ray's dashboard shows the name of this class.
        actor_class = type(self.actor.__name__, (FaultIsolatingActor,), {})
        return dataset.map_batches(
            actor_class,
            fn_constructor_args=(self.actor, self.arguments),
            fn_constructor_kwargs={"attempts": attempts, "num_actors": self.max_actors},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=self.min_actors, max_size=self.max_actors),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
        )
