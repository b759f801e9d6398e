"""What `visvm benchmark` measures: its parts, the programs of each, and what a program is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visvm.benchmark.sizes import SIZES, Size
from visvm.benchmark.workload import Workload

Part = Literal[
    "search", "scoring", "training-10", "training-42", "rollouts", "prefill", "peer-search", "peer-greedy"
]
PROGRAMS: dict[Part, tuple[str, ...]] = {
    "search": ("published", "batched", "ours", "greedy", "generate"),
    "scoring": ("published", "ours"),
    "training-10": ("published", "ours"),
    "training-42": ("published", "ours"),
    "rollouts": ("published", "ours"),
    "prefill": ("published", "ours"),
}
PEER: dict[Part, tuple[str, ...]] = {"peer-search": ("peer", "ours"), "peer-greedy": ("peer", "ours")}


@dataclass(frozen=True)
class Setup:
    """The model (a key of SIZES), where and in which type it computes, and the work."""

    model: str
    workload: Workload
    device: str = "cpu"
    dtype: str = "float32"
    peer: str | None = None  # "http://HOST/v1#MODEL"

    @property
    def size(self) -> Size:
        """The model's size."""
        return SIZES[self.model]
