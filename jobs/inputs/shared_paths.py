"""The paths of a job's config: on a cluster, every node must see them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from visvm import storage
from visvm.config import MODEL_MARK, PATH_MARK, Config
from visvm.models import is_local


class SharedPaths(Config):
    """Files on a cluster of several nodes."""

    OPERATIONAL = frozenset({"shared_paths"})

    shared_paths: bool = Field(False, description="local paths name the same files on every node (NFS, EFS)")


def check_shared_paths(config: SharedPaths, *, num_nodes: int) -> None:
    """Check that every node of a cluster sees the files and models that the config names.

    Raises:
        ValueError: a local path on a cluster of several nodes, without --shared-paths.
    """
    local = dict(_local(config))
    if num_nodes > 1 and local and not config.shared_paths:
        named = ", ".join(f"{name} = {place}" for name, place in local.items())
        raise ValueError(
            f"{named}: a path of one machine, and the cluster has {num_nodes} nodes; use s3://..., or a"
            " folder that is mounted on every node (NFS, EFS) and --shared-paths"
        )


def marked_fields(config_class: type[Config]) -> Iterator[tuple[str, str]]:
    """Yield the name and mark of each field whose type is ``Place`` or ``ModelName``, or holds them."""
    for name, field in config_class.model_fields.items():
        found = {*field.metadata, *_marks(field.annotation)} & {PATH_MARK, MODEL_MARK}
        yield from ((name, mark) for mark in found)


def _marks(annotation: Any) -> Iterator[str]:
    yield from (mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, str))
    for part in typing.get_args(annotation):
        yield from _marks(part)


def _local(config: SharedPaths) -> Iterator[tuple[str, str]]:
    for name, mark in marked_fields(type(config)):
        given = getattr(config, name)
        for place in (given,) if isinstance(given, str) else given or ():
            if is_local(place) if mark == MODEL_MARK else not storage.is_remote(place):
                yield name, place
