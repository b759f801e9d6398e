"""Paths and models of one machine are refused on a cluster, and no config can have one that is overlooked."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import jobs
from jobs.inputs.shared_paths import SharedPaths, check_shared_paths, marked_fields
from jobs.pipeline.config import PipelineConfig
from jobs.runtime.serve_config import ServeConfig
from jobs.train_value import TrainValueConfig
from visvm.config import load


def test_a_cluster_of_several_nodes_takes_no_path_of_one_machine(tiny_policy: Path) -> None:
    remote = {"images": "s3://x/images", "out": "s3://x/out"}
    for given in (remote, {**remote, "policy": "org/name", "reward": "ViT-L-14-336/openai"}):
        check_shared_paths(load(PipelineConfig, **given), num_nodes=3)
    for name, place in (("images", "photos"), ("out", "/out"), ("policy", str(tiny_policy))):
        config = load(PipelineConfig, **{**remote, name: place})
        check_shared_paths(config, num_nodes=1)
        with pytest.raises(ValueError, match=rf"^{name} = {place}: .* 3 nodes; use s3://.*--shared-paths"):
            check_shared_paths(config, num_nodes=3)
        check_shared_paths(config.model_copy(update={"shared_paths": True}), num_nodes=3)
    training = load(TrainValueConfig, policy="world", rollouts=("s3://x/a", "runs/b"), out="s3://x/out")
    with pytest.raises(ValueError, match=r"^rollouts = runs/b: a path of one machine"):
        check_shared_paths(training, num_nodes=2)
    endpoint = load(ServeConfig, policy=str(tiny_policy), reward="none")
    with pytest.raises(ValueError, match=rf"^policy = {tiny_policy}: a path of one machine"):
        check_shared_paths(endpoint, num_nodes=2)


OTHER_TEXT = {
    *("device", "dtype", "prompt", "prompts", "shard", "method", "methods", "sft", "size", "host"),  # words
    *("unit", "units"),  # words
    *("scorer", "search"),  # MODULE:NAME, which every node imports
    *("deepspeed", "api_keys", "questions", "cluster"),  # files that the driver alone reads
    *("policy_model", "license", "datasets", "push_to_hub"),  # of the model card and the hub
    *(
        "endpoint",
        "model",
        "judge_endpoint",
        "judge_model",
        "cors_origins",
    ),  # a server, and its name of its model
}
"""Fields of text that are neither a path nor a model that other nodes read."""


def configs(base: type[SharedPaths]) -> Iterator[type[SharedPaths]]:
    for config in base.__subclasses__():
        yield config
        yield from configs(config)


def is_text(annotation: object) -> bool:
    """Whether a field's type has text in it that a user gives; sections of options are checked elsewhere."""
    return "str" in str(annotation).replace("dict[str, typing.Any]", "").replace("Literal", "")


def test_every_path_and_model_of_a_cluster_jobs_config_is_marked() -> None:
    for module in pkgutil.walk_packages(jobs.__path__, "jobs."):
        importlib.import_module(module.name)
    found = {
        config.__name__: config for config in configs(SharedPaths) if config.__module__.startswith("jobs")
    }
    del found["HubOptions"]  # a part of others
    assert {"CaptionConfig", "FinetuneConfig", "SelfTrainConfig", "ServeConfig", "DemoConfig"} <= found.keys()
    for name, config in found.items():
        marked = {field for field, _ in marked_fields(config)}
        texts = {field for field, info in config.model_fields.items() if is_text(info.annotation)}
        assert texts - marked <= OTHER_TEXT, name
        assert marked & {"policy", "out"}, name
