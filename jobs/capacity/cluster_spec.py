"""The nodes of a cluster, with their CPUs, GPUs and memory, read from YAML or from the running Ray."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from visvm.config import Config, load

GB = 10**9
RAY_SHARE = 0.7  # of a node's memory; Ray reserves the rest for its object store
CLUSTER_FILE = "VISVM_CLUSTER"


class Gpu(NamedTuple):
    """Data sheet of a GPU: memory in GB, dense bfloat16 TFLOP/s, memory bandwidth in TB/s."""

    memory_gb: float
    tflops: float
    tb_per_second: float


# Keyed as in Ray's resource "accelerator_type:NAME". The T4 has no bfloat16; its figure is for float16.
GPUS = {
    "T4": Gpu(16, 65, 0.32),
    "A10G": Gpu(24, 70, 0.60),
    "L4": Gpu(24, 121, 0.30),
    "RTX-4090": Gpu(24, 165, 1.01),
    "A100-40G": Gpu(40, 312, 1.56),
    "L40S": Gpu(48, 362, 0.86),
    "A100-80G": Gpu(80, 312, 2.04),
    "H100": Gpu(80, 989, 3.35),
    "H200": Gpu(141, 989, 4.8),
    "B200": Gpu(180, 2250, 7.7),
}


class Nodes(Config):
    """A group of equal nodes."""

    name: str = Field("node", description="name of the group")
    count: int = Field(1, ge=0, description="number of nodes; the maximum, if the cluster autoscales")
    cpus: float = Field(gt=0, description="CPUs per node that Ray may use")
    memory_gb: float | None = Field(None, gt=0, description="memory per node in GB")
    gpus: int = Field(0, ge=0, description="GPUs per node")
    gpu: str | None = Field(None, description="kind of GPU: " + ", ".join(GPUS))
    gpu_memory_gb: float | None = Field(None, gt=0, description="memory per GPU in GB (default: by kind)")
    price_per_hour: float | None = Field(None, ge=0, description="price per node and hour")

    @model_validator(mode="after")
    def _is_known(self) -> Nodes:
        if self.gpu and self.gpu not in GPUS and self.gpu_memory_gb is None:
            raise ValueError(f"gpu is {self.gpu!r}: expected one of {', '.join(GPUS)}, or give gpu_memory_gb")
        return self

    @property
    def gpu_memory(self) -> float | None:
        """Return the bytes of one GPU, or None if they are not known."""
        gb = self.gpu_memory_gb or (GPUS[self.gpu].memory_gb if self.gpu in GPUS else None)
        return gb * GB if gb else None

    def __str__(self) -> str:
        gpus = f" with {self.gpus} {self.gpu or 'GPU'}" if self.gpus else ""
        return f"{self.count} x {self.name} of {self.cpus:g} CPU{gpus}"


class Cluster(Config):
    """The nodes that a job may use."""

    nodes: tuple[Nodes, ...] = Field(min_length=1, description="groups of equal nodes")

    @property
    def num_gpus(self) -> int:
        """Return the number of GPUs of all nodes."""
        return sum(group.count * group.gpus for group in self.nodes)

    def __str__(self) -> str:
        return ", ".join(str(group) for group in self.nodes)


def read(path: str) -> Cluster:
    """Return the cluster described by a YAML file.

    Raises:
        ValueError: the file cannot be read, or has an unknown key or an impossible value.
    """
    return load(Cluster, path)


def running() -> Cluster:
    """Return the cluster that this process is connected to, or the one described by the file VISVM_CLUSTER.

    The file is for clusters that autoscale: it says how large they may grow.
    """
    import ray

    if path := os.environ.get(CLUSTER_FILE):
        return read(path)
    alive = [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    kinds = Counter(alive)
    return Cluster(nodes=tuple(kind.model_copy(update={"count": num}) for kind, num in kinds.items()))


def logical_cpus() -> int:
    """Return the CPUs to give a local Ray: twice the cores, since most of a job's processes are waiting."""
    return max(4, 2 * (os.cpu_count() or 1))


def this_machine() -> Cluster:
    """Return this machine as a cluster, as a Ray started here would see it; no Ray is started."""
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    node = {
        "name": "this machine",
        "cpus": logical_cpus(),
        "memory_gb": memory / GB,
        "gpus": len(gpus),
        "gpu_memory_gb": min(gpu.total_memory for gpu in gpus) / GB if gpus else None,
    }
    return Cluster.model_validate({"nodes": [node]})


def _node(resources: dict[str, Any]) -> Nodes:
    """Return the node that has these Ray resources; memory is None for a GPU of an unknown kind."""
    kinds = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator")]
    kind = next((name for name in sorted(kinds, key=len, reverse=True) if name in GPUS), None)
    node = {
        "cpus": max(resources.get("CPU", 0), 0.001),
        "memory_gb": resources["memory"] / RAY_SHARE / GB if "memory" in resources else None,
        "gpus": int(resources.get("GPU", 0)),
        "gpu": kind,
    }
    return Nodes.model_validate(node)
