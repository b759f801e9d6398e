"""Start Ray on this machine, or connect to the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

import grpc
import ray
import ray.data
from ray._raylet import Config  # type: ignore[attr-defined]

from jobs.capacity import cluster_spec
from jobs.capacity.cluster_spec import Cluster
from jobs.inputs.shared_paths import SharedPaths, check_shared_paths
from jobs.runner import logs

ROOT = Path(__file__).parents[2]
NUM_ATTEMPTS = 3
SECONDS_TO_ANSWER = 20
logger = logging.getLogger(__name__)


def start(config: SharedPaths | None = None, *, num_cpus: int | None = None) -> None:
    """Connect this process to Ray unless it is connected; a local cluster ends with the process.

    Raises:
        ValueError: not all nodes of the cluster see the paths in the job's config.
    """
    if not ray.is_initialized():
        _connect(num_cpus)
        if logs.is_json():
            logs.setup()  # again, as Ray has added its own handler to this process
    if config is not None:
        check_paths(config)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # jobs report their progress, in a form that suits log files too
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns about actors that take long to load


def check_paths(config: SharedPaths) -> None:
    """Check that all nodes of the connected cluster, if any, see the paths in the config of a job.

    Raises:
        ValueError: they do not.
    """
    if ray.is_initialized():
        check_shared_paths(config, num_nodes=sum(node["Alive"] for node in ray.nodes()))


def loading(device: str, dtype: str, cluster: Cluster | None = None) -> dict[str, str]:
    """Return the device and dtype to load models with.

    "auto" means a GPU and bfloat16 if the cluster (default: the running one) has a GPU, else the CPU and
    float32.

    Raises:
        ValueError: the device is "cuda", and the cluster has no GPU.
    """
    num_gpus = (cluster or cluster_spec.running()).num_gpus
    if device == "cuda" and not num_gpus:
        raise ValueError("device = 'cuda', but this Ray cluster has no GPU; use --device cpu or auto")
    if device == "auto":
        device = "cuda" if num_gpus else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device == "cuda" else "float32"
    return {"device": device, "dtype": dtype}


def _connect(num_cpus: int | None) -> None:
    if "RAY_ADDRESS" in os.environ:
        _check_answer(os.environ["RAY_ADDRESS"])
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **_logging())
        return
    prepare()
    for attempt in range(NUM_ATTEMPTS):
        try:
            _start_local(num_cpus or cluster_spec.logical_cpus())
            return
        except Exception:  # Ray raises no narrower type if it does not start in time
            if attempt == NUM_ATTEMPTS - 1:
                raise
            logger.warning("Ray did not start in time; this machine may be busy. Trying again")


def _check_answer(address: str) -> None:
    """Check that a cluster answers at HOST:PORT or ray://HOST:PORT, as ray.init waits for minutes.

    Raises:
        ValueError: nothing does within SECONDS_TO_ANSWER.
    """
    target = address.removeprefix("ray://")
    if ":" not in target or "//" in target or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    try:
        with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_ANSWER)
    except grpc.FutureTimeoutError:
        raise ValueError(
            f"RAY_ADDRESS = {address!r}: no Ray answers there within {SECONDS_TO_ANSWER} seconds;"
            " start that cluster, or unset RAY_ADDRESS to work on this machine"
        ) from None


def prepare() -> None:
    """Set the environment variables that the processes of a local Ray read when they start."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    _demand_token()
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "60")
    # By default the raylet gives up on its agents after some 15 s and exits: too early on a busy machine.
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")
    _export_path()


def _demand_token() -> None:
    """Let Ray refuse whoever lacks a token: its ports are open on all addresses, and joining is running code.

    The token is random unless the user has named one; RAY_AUTH_MODE=disabled of the user's own holds.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # Ray has read its variables when it was imported
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}.isdisjoint(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start_local(num_cpus: int) -> None:
    ray.init(
        address="local",
        num_cpus=num_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        **_logging(),
    )


def _logging() -> dict[str, Any]:
    """Return options of ray.init that make the logs of actors and tasks JSON too, if VISVM_LOG=json."""
    return {"logging_config": ray.LoggingConfig(encoding="JSON")} if logs.is_json() else {}


def _export_path() -> None:
    """Let workers import visvm, actors and jobs from this checkout in any working directory."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
