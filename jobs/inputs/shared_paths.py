"""Where a job reads and writes: on a cluster, places that every node sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from jobs.inputs.models import is_local
from visvm import storage
from visvm.config import Config

PLACES = ("images", "image_root", "test_images", "rollouts", "captions", "out")
MODELS = ("policy", "value", "reward")


class SharedPaths(Config):
    """The field of every job that has a cluster do its work."""

    OPERATIONAL = frozenset({"shared_paths"})

    shared_paths: bool = Field(
        False, description="local paths are the same files on every node of the cluster (NFS, EFS)"
    )


def check_shared_paths(config: Any, *, num_nodes: int) -> None:
    """Look that every node of a cluster sees what the config names.

    Raises:
        ValueError: a path of one machine, on a cluster of several.
    """
    local = dict(_local(config))
    if num_nodes > 1 and local and not config.shared_paths:
        named = ", ".join(f"{name} = {place}" for name, place in local.items())
        raise ValueError(
            f"{named}: a path of one machine, and the cluster has {num_nodes} nodes; use s3://..., or a"
            " folder that is mounted on every node (NFS, EFS) together with --shared-paths"
        )


def _local(config: Any) -> Iterator[tuple[str, str]]:
    for name in (*PLACES, *MODELS):
        given = getattr(config, name, None)
        for place in (given,) if isinstance(given, str) else given or ():
            if is_local(place) if name in MODELS else not storage.is_remote(place):
                yield name, place
