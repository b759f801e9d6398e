"""Every file in cluster/ against a schema, and the schemas against a typo in each kind of place."""

from __future__ import annotations

import copy
import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator

from jobs import cli, plan
from jobs.capacity import cluster_spec, job_plan
from jobs.generate_triples import GenerateConfig
from jobs.runner.command import parse
from tests.support.cluster_schema import MANIFESTS, AwsProvider, GcpNode, GcpProvider, cluster_of
from tests.support.paths import ROOT
from visvm.training.config import read_deepspeed

CLUSTER = ROOT / "cluster"
RAY_SCHEMA = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
# Files that another test of this module, or of its own, looks into.
CHECKED = {"aws", "gcp", *MANIFESTS, "serve", "runtime_env"}
JOB_CONFIGS = {
    "policy_7b": ("generate-triples", "caption"),
    "policy_7b_24gb": ("generate-triples", "caption"),
    "train_value_7b": ("train-value",),
    "finetune_7b": ("finetune",),
}


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def check_launcher(config: dict[str, Any]) -> None:
    """Ray's own schema, then the provider's fields, which it lets pass."""
    jsonschema.validate(config, RAY_SCHEMA)
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert sum(one.get("max_workers", 0) for one in types.values()) == config["max_workers"]
    if config["provider"]["type"] == "aws":
        AwsProvider.model_validate(config["provider"])
        for one in types.values():
            check_ec2(one["node_config"])
        return
    GcpProvider.model_validate(config["provider"])
    for one in types.values():
        GcpNode.model_validate(one["node_config"])


def check_ec2(node_config: dict[str, Any]) -> None:
    """The parameters of RunInstances as boto3 knows them, and an instance type that there is."""
    shape = (
        botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    )
    report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, shape)
    assert not report.has_errors(), report.generate_report()
    assert node_config["InstanceType"] in shape.members["InstanceType"].enum
    market = node_config.get("InstanceMarketOptions")
    assert market is None or market["MarketType"] in ("spot", "capacity-block")


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_launcher_files_are_valid_and_have_spot_gpu_groups(name: str) -> None:
    config = read(name)
    check_launcher(config)
    groups = {key: one for key, one in config["available_node_types"].items() if "GPU" in one["resources"]}
    assert len(groups) == 2
    for one in groups.values():
        spot = one["node_config"].get("InstanceMarketOptions") or one["node_config"].get("scheduling")
        assert "spot" in json.dumps(spot).lower()
        assert one["min_workers"] == 0 < one["max_workers"]
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_launcher_nodes_ask_for_tokens_and_install_the_pins(name: str) -> None:
    config, text = read(name), (CLUSTER / f"{name}.yaml").read_text()
    assert "RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "--require-hashes -r ~/visvm/requirements.txt" in text
    (start,) = (line for line in config["head_start_ray_commands"] if "ray start" in line)
    assert "--autoscaling-config" in start and "0.0.0.0" not in start


def broken(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with ``value`` at ``path``; a last key in angle brackets is renamed (| stands for its /)."""
    config = copy.deepcopy(config)
    *parents, last = path.split("/")
    at: Any = config
    for key in parents:
        at = at[int(key) if key.isdigit() else key]
    if last.startswith("<"):
        at[value] = at.pop(last.strip("<>").replace("|", "/"))
    else:
        at[last] = value
    return config


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("aws", "<max_workers>", "max_worker"),
        ("aws", "provider/<region>", "regoin"),
        ("aws", "provider/region", "us_west_2"),
        ("aws", "available_node_types/h100/<resources>", "resource"),
        ("aws", "available_node_types/h100/resources/GPU", "8"),
        ("aws", "available_node_types/h100/node_config/<InstanceMarketOptions>", "InstanceMarketOption"),
        ("aws", "available_node_types/h100/node_config/InstanceType", "p5.48xlrage"),
        ("aws", "available_node_types/h100/node_config/InstanceMarketOptions/MarketType", "spto"),
        ("aws", "available_node_types/l4/node_config/IamInstanceProfile/<Name>", "Nmae"),
        ("aws", "head_node_type", "haed"),
        ("gcp", "provider/<project_id>", "project"),
        ("gcp", "provider/availability_zone", "europe-west4-a"),
        ("gcp", "auth/<ssh_user>", "user"),
        ("gcp", "available_node_types/l4/node_config/<machineType>", "machine_type"),
        ("gcp", "available_node_types/l4/node_config/scheduling/provisioningModel", "SPOTT"),
        ("gcp", "available_node_types/l4/node_config/disks/0/initializeParams/<diskSizeGb>", "diskSizeGB"),
        ("gcp", "setup_commands", "pip install uv"),
    ],
)
def test_a_typo_in_a_launcher_file_is_caught(name: str, path: str, value: Any) -> None:
    config = broken(read(name), path, value)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError)):
        check_launcher(config)


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid_and_of_this_ray(name: str) -> None:
    cluster = cluster_of(MANIFESTS[name].model_validate(read(name)))
    assert cluster.rayVersion == metadata.version("ray")
    (group,) = cluster.workerGroupSpecs
    (node,) = cluster_spec.read(str(CLUSTER / "sizes" / "kuberay.yaml")).nodes
    limits = group.template.spec.containers[0].resources.limits
    assert (node.count, f"{node.cpus:g}", str(node.gpus)) == (group.maxReplicas, limits.cpu, limits.gpu)


SPEC = {"raycluster": "spec", "rayjob": "spec/rayClusterSpec", "rayservice": "spec/rayClusterConfig"}
LIMITS = "workerGroupSpecs/0/template/spec/containers/0/resources/limits"


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("<enableInTreeAutoscaling>", "enableInTreeAutoscalling"),
        ("authOptions/mode", "disabled"),
        ("autoscalerOptions/<idleTimeoutSeconds>", "idleTimeout"),
        ("headGroupSpec/rayStartParams/num-cpus", "4"),
        ("headGroupSpec/template/spec/containers/0/<image>", "imgae"),
        ("workerGroupSpecs/0/<maxReplicas>", "maxReplica"),
        ("workerGroupSpecs/0/minReplicas", 9),
        (f"{LIMITS}/<nvidia.com|gpu>", "nvidia.com/gpus"),
        (f"{LIMITS}/memory", "120GB"),
        (f"{LIMITS}/cpu", "8"),
        ("workerGroupSpecs/0/template/spec/tolerations/0/effect", "NoScheduled"),
        ("workerGroupSpecs/0/template/spec/containers/0/volumeMounts/0/name", "smh"),
    ],
)
def test_a_typo_in_a_manifest_is_caught(name: str, path: str, value: Any) -> None:
    config = broken(read(name), f"{SPEC[name]}/{path}", value)
    with pytest.raises(ValueError):
        MANIFESTS[name].model_validate(config)


def test_the_ray_job_is_a_command_that_we_take() -> None:
    spec = read("rayjob")["spec"]
    program, verb, *given = shlex.split(spec["entrypoint"])
    assert program == "visvm" and verb in cli.VERBS
    given = [word.replace("/opt/visvm", str(ROOT)) for word in given]
    config = parse(GenerateConfig, given, doc="")
    assert config.max_images == 16  # of the config file, which is in the image
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    path = variables[cluster_spec.CLUSTER_FILE].replace("/opt/visvm", str(ROOT))
    job = job_plan.make_plan(
        "generate-triples", config, cluster_spec.read(path), num_images=None, rates=plan.Rates()
    )
    assert job.facts()["problems"] == []


def test_the_service_is_the_application_of_serve_yaml() -> None:
    from ray.serve.schema import ServeDeploySchema

    from jobs.serve import ServeConfig

    given = yaml.safe_load(read("rayservice")["spec"]["serveConfigV2"])
    (application,) = ServeDeploySchema.model_validate(given).applications
    (ours,) = ServeDeploySchema.model_validate(read("serve")).applications
    assert (application.import_path, application.name) == (ours.import_path, ours.name)
    ServeConfig.model_validate(application.args)


@pytest.mark.parametrize("name", JOB_CONFIGS)
def test_job_configs_are_taken_by_their_jobs(name: str) -> None:
    for job in JOB_CONFIGS[name]:
        required = {key for key, field in plan.JOBS[job].model_fields.items() if field.is_required()}
        given = {key: value for key, value in plan.ANY.items() if key in required}
        plan.JOBS[job].model_validate({**given, **read(name)})
        with pytest.raises(ValueError):
            plan.JOBS[job].model_validate({**given, **read(name), "max_pictrues": 1})


def test_deepspeed_config_is_stage_3() -> None:
    config = read_deepspeed(str(CLUSTER / "deepspeed_zero3.json"))
    assert config is not None and config["zero_optimization"]["stage"] == 3


def test_no_file_is_left_out() -> None:
    known = CHECKED | set(JOB_CONFIGS) | {"reproduce_7b"}  # tests/jobs/test_reproduce.py plans with it
    assert {path.stem for path in CLUSTER.glob("*.yaml")} - known == set()
    for path in (CLUSTER / "sizes").glob("*.yaml"):
        assert cluster_spec.read(str(path)).num_gpus > 0


def instructions() -> list[tuple[str, str]]:
    """(instruction, its arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_is_pinned_and_runs_as_no_root() -> None:
    steps = instructions()
    assert {name for name, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER"}
    (base,) = (what for name, what in steps if name == "FROM")
    assert re.fullmatch(r"python:3\.11-[a-z]+", base)  # a name, no registry's host
    for sources in (what.split()[:-1] for name, what in steps if name == "COPY"):
        assert all((ROOT / source).exists() for source in sources), sources
    commands = " ".join(what for name, what in steps if name == "RUN")
    assert "--require-hashes -r requirements.txt" in commands
    assert steps[-1] == ("USER", "ray")
    assert "RAY_AUTH_MODE=token" in next(what for name, what in steps if name == "ENV")
