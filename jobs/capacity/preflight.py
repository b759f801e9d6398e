"""Check that a cluster can hold a job: for `visvm plan`, and for every Ray job before its actors start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from jobs.capacity.cluster_spec import GB, RAY_SHARE, Cluster, Nodes, running

USABLE = 0.92  # of a GPU's memory; the rest is CUDA's context and fragmentation
EPSILON = 1e-6


@dataclass(frozen=True)
class Demand:
    """The resources of one stage: ``count`` actors at first and ``most`` later, each with cpus and gpus.

    ``parts`` are the bytes that an actor keeps, by name, for each of its GPUs (or for its node if it has
    none). ``fewer`` and ``smaller`` name the options that reduce the number or the size of the actors.
    """

    stage: str
    count: int
    most: int
    cpus: float
    gpus: float = 0
    parts: Sequence[Mapping[str, float]] = ({},)
    fewer: str = "--min-actors or --num-gpus"
    smaller: str = "--cache-mb, --max-rows or --max-images"

    @property
    def memory(self) -> float:
        """Return the bytes that an actor keeps."""
        return sum(sum(parts.values()) for parts in self.parts)


class ActorLoad(NamedTuple):
    """The bytes that one actor keeps in the memory of one GPU or node."""

    demand: Demand
    parts: Mapping[str, float]

    @property
    def memory(self) -> float:
        """Return the bytes of all parts."""
        return sum(self.parts.values())


class NodeRoom:
    """One node and the actors placed on it."""

    def __init__(self, node: Nodes) -> None:
        self.node, self.cpus = node, node.cpus
        self.gpus = [1.0] * node.gpus
        self.on_gpu: list[list[ActorLoad]] = [[] for _ in range(node.gpus)]
        self.on_host: list[ActorLoad] = []

    def take(self, demand: Demand) -> bool:
        """Place an actor here if CPUs and GPUs suffice, as Ray would; return whether they do."""
        gpus = self._gpus(demand.gpus)
        if demand.cpus > self.cpus + EPSILON or gpus is None:
            return False
        self.cpus -= demand.cpus
        for i, parts in zip_longest(gpus, demand.parts, fillvalue=None):
            if i is None:
                self.on_host.append(ActorLoad(demand, parts or {}))
                continue
            self.gpus[i] -= min(demand.gpus, 1)
            self.on_gpu[i].append(ActorLoad(demand, parts or {}))
        return True

    def _gpus(self, wanted: float) -> list[int] | None:
        """Return the GPUs for an actor: the fullest with room for its share, or several whole ones."""
        share, num = min(wanted, 1), max(1, round(wanted)) if wanted else 0
        free = sorted((left, i) for i, left in enumerate(self.gpus) if left >= share - EPSILON)
        return [i for _, i in free[:num]] if len(free) >= num else None


def place(
    demands: Sequence[Demand], cluster: Cluster, *, most: bool = False
) -> tuple[list[NodeRoom], list[int]]:
    """Place the stages' first (or ``most``) actors; return the nodes, and how many of each stage had room.

    Large actors are placed first. Those without a GPU go to nodes without one, if there are any.
    """
    places = [NodeRoom(group) for group in cluster.nodes for _ in range(group.count)]
    num_placed = [0] * len(demands)
    for i in sorted(range(len(demands)), key=lambda i: (-demands[i].gpus, -demands[i].cpus)):
        demand, wants_gpu = demands[i], demands[i].gpus > 0
        order = sorted(places, key=lambda place: (place.node.gpus > 0) != wants_gpu)
        for _ in range(demand.most if most else demand.count):
            num_placed[i] += any(place.take(demand) for place in order)
    return places, num_placed


def shortfalls(demands: Sequence[Demand], cluster: Cluster) -> list[str]:
    """Return what is missing and how to fix it, one sentence each; empty if the cluster can hold the job."""
    places, num_placed = place(demands, cluster)
    missing = [
        f"{demand.stage}: {demand.count} actors of {demand.cpus:g} CPU and {demand.gpus:g} GPU each are"
        f" needed, there is room for {num}: add nodes, or lower {demand.fewer}"
        for demand, num in zip(demands, num_placed, strict=True)
        if num < demand.count
    ]
    return list(dict.fromkeys([*missing, *(problem for one in places for problem in _too_large(one))]))


def check(demands: Sequence[Demand], cluster: Cluster | None = None) -> None:
    """Check that ``cluster`` (default: the running one) can hold the job; Ray itself would wait forever.

    Raises:
        ValueError: it cannot; the message says what is missing and how to fix it.
    """
    cluster = cluster or running()
    if problems := shortfalls(demands, cluster):
        raise ValueError(f"the cluster ({cluster}) cannot hold this job: {'; '.join(problems)}")


def _too_large(place: NodeRoom) -> list[str]:
    """Return a problem for each GPU, and for the node, whose memory the placed actors exceed."""
    node = place.node
    rooms = [(loads, node.gpu_memory, f"a {node.gpu or 'GPU'}", USABLE) for loads in place.on_gpu]
    if node.memory_gb:
        rooms.append((place.on_host, node.memory_gb * GB, f"a node of {node.name}", RAY_SHARE))
    return [
        _overflow(loads, f"{what} of {size / GB:g} GB, of which {share:.0%} may be used")
        for loads, size, what, share in rooms
        if size is not None and sum(load.memory for load in loads) > size * share
    ]


def _overflow(loads: Sequence[ActorLoad], where: str) -> str:
    who = " and ".join(dict.fromkeys(load.demand.stage for load in loads))
    need, largest = sum(load.memory for load in loads), max(loads, key=lambda load: load.memory)
    parts = " + ".join(f"{name} {size / GB:.1f}" for name, size in largest.parts.items())
    return (
        f"{who}: {need / GB:.1f} GB are needed on {where} ({parts}): take a larger one, or lower"
        f" {largest.demand.smaller}"
    )
