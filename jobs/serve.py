"""The endpoint: OpenAI's chat completions over a policy and the search that guides it, on Ray Serve.

visvm serve                                      (the embedded world, http://127.0.0.1:8000)
visvm serve --config cluster/serve.yaml --port 9000
serve deploy cluster/serve.yaml                  (the same application on a running cluster)
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve import Application

    from actors.serving.service import Settings
    from jobs.capacity.preflight import Demand

from jobs.runner.command import run
from jobs.runtime.serve_config import KEYS, Models, Scale, ServeConfig, find_models, read_keys, read_promise
from visvm import storage
from visvm.config import load
from visvm.models import is_local, is_world
from visvm.scorers import is_head
from visvm.server_policy.names import address_and_model, is_server

NAME = "visvm"
METRICS_SECONDS = 2
HEALTH_SECONDS = 2
SECONDS_TO_SEND = 0.5  # for the proxy, after the last response is handed to it
BODY_BESIDE_IMAGE = 2**20
logger = logging.getLogger(__name__)


def build(args: dict[str, Any]) -> Application:
    """Return the application that ``serve deploy`` and ``visvm serve`` start, from fields of ServeConfig.

    Raises:
        ValueError: naming the field, the value and what was expected.
    """
    from actors.serving import deployments
    from jobs.runtime import ray_setup

    config = load(ServeConfig, **args)
    ray_setup.check_paths(config)
    models, loading = find_models(config), _loading(config)
    scorers, heads = _scorers(config, models, loading), _heads(config, models)
    local = _local(config, models, loading) | {needs: {needs: head} for needs, head in heads.items()}
    policy = _scaled(deployments.PolicyDeployment, config.policy_scale, config, room=config.max_images).bind(
        _policy_keywords(config) | loading | {"name": models.policy},
        scorers,
        local=local,
        max_pixels=config.max_pixels,
        patience=config.patience,
    )
    ingress: Any = deployments.Ingress.options(  # type: ignore[attr-defined]
        num_replicas=config.ingress_replicas,
        ray_actor_options={"num_cpus": config.ingress_cpus},
        # Those above max_requests come in too, to be answered with a 503 of our own.
        max_ongoing_requests=8 * config.max_requests,
        graceful_shutdown_timeout_s=config.seconds,
    )
    return ingress.bind(policy, _settings(config, ["none", *scorers, *local]))


def _scorers(config: ServeConfig, models: Models, loading: dict[str, str]) -> dict[str, Any]:
    """Return the deployments that score, by what a search method needs."""
    from actors.serving import deployments

    if config.scorer:
        scale, room = config.value_scale, 4 * deployments.BATCH
        own = _scaled(deployments.OwnScorerDeployment, scale, config, room=room)
        return dict.fromkeys(("value", "reward"), own.bind(config.scorer, max_images=config.max_images))
    heads = _heads(config, models)
    reward = {"name": models.reward, **loading} if models.reward and "reward" not in heads else None
    scorers = {}
    if models.value and "value" not in heads and not _is_colocated(config):
        needs, value, beside = _value(config, models, loading)
        app = _scaled(deployments.ValueDeployment, config.value_scale, config, room=4 * deployments.BATCH)
        scorers[needs] = app.bind(value, beside, max_images=config.max_images)
    if reward:
        app = _scaled(deployments.RewardDeployment, config.reward_scale, config, room=4 * deployments.BATCH)
        scorers["reward"] = app.bind(reward, max_images=config.max_images)
    return scorers


def _value(
    config: ServeConfig, models: Models, loading: dict[str, str]
) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    """Return what the value model serves, its keywords, and those of the reward that it needs beside it."""
    value = {"name": models.value, "centre": config.centre, "cache_mb": config.value_cache_mb, **loading}
    if models.predict == "value":
        return "value", value, None
    return "reward+future", value, {"name": models.reward, **loading}


def _local(config: ServeConfig, models: Models, loading: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the scorers in the policy's replicas: keywords of ``load_scorer``, by what a search needs."""
    if config.scorer or not models.value or is_head(models.value) or not _is_colocated(config):
        return {}
    needs, value, reward = _value(config, models, loading)
    return {needs: {"value": value, "reward": reward}}


def _is_colocated(config: ServeConfig) -> bool:
    """Return whether the value model is in the policy's replicas: a call per sentence is saved."""
    if config.colocate_value is not None:
        return config.colocate_value
    if not config.value_scale.min_replicas == config.value_scale.max_replicas == 1:
        return False
    return config.device == "cpu" or _loading(config)["device"] == "cpu"


def _heads(config: ServeConfig, models: Models) -> dict[str, dict[str, Any]]:
    """Return the heads on the policy's own states, which need no deployment, by what a search needs."""
    named = {"value": models.value, "reward": models.reward}
    return {
        needs: {"name": name, "centre": config.centre}
        for needs, name in named.items()
        if name and is_head(name)
    }


def _scaled(deployment: Any, scale: Scale, config: ServeConfig, *, room: int) -> Any:
    """Return a deployment with its scale; a replica takes at most ``room`` requests at a time."""
    is_gpu = _loading(config)["device"] == "cuda"
    return deployment.options(
        ray_actor_options={"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus if is_gpu else 0},
        max_ongoing_requests=room,
        autoscaling_config={
            **scale.model_dump(exclude={"num_cpus", "num_gpus"}),
            "metrics_interval_s": METRICS_SECONDS,
            "look_back_period_s": 2 * METRICS_SECONDS,
        },
        health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=config.seconds,
        graceful_shutdown_wait_loop_s=0.5,
    )


def _loading(config: ServeConfig) -> dict[str, str]:
    from jobs.runtime import ray_setup

    if config.device == "cuda":  # on a cluster that grows, GPUs come when replicas ask for them
        return {"device": "cuda", "dtype": "bfloat16" if config.dtype == "auto" else config.dtype}
    return ray_setup.loading(config.device, config.dtype)


def _policy_keywords(config: ServeConfig) -> dict[str, Any]:
    names = ("top_p", "max_images", "max_rows", "cache_mb", "compile", "processor_pixels", "template")
    limits = config.limits
    bounds = {"max_new_tokens": limits.max_tokens, "max_prompt_tokens": limits.max_prompt_tokens}
    seeds = {} if config.policy_seeds else {"seeds": False}
    return bounds | {name: getattr(config, name) for name in names} | seeds


def _settings(config: ServeConfig, needs: Sequence[str]) -> Settings:
    from actors.serving.service import Settings
    from visvm.chat import served_methods

    calibrated, calibration = read_promise(config)
    return Settings(
        policy=_shown(config.policy),
        is_world=is_world(config.policy),
        methods=(*filter(None, [config.search]), *served_methods(needs)),
        limits=config.limits,
        fetch=config.fetch,
        max_requests=config.max_requests,
        seconds=config.seconds,
        max_body_bytes=config.fetch.max_bytes * 4 // 3 + BODY_BESIDE_IMAGE,
        key_hashes=read_keys(config.api_keys),
        calibrated=calibrated,
        calibration=calibration,
        cors_origins=config.cors_origins,
    )


def _shown(policy: str) -> str:
    """Return what a reader is told of a policy's name: no path of this machine, no address."""
    if is_server(policy):
        return address_and_model(policy)[1]
    is_path = is_local(policy) or storage.is_remote(policy)
    return PurePosixPath(policy).name if is_path else policy


def _demands(config: ServeConfig, models: Models) -> list[Demand]:
    """Return what the first replicas ask of the cluster."""
    from jobs.capacity.preflight import Demand

    is_gpu = _loading(config)["device"] == "cuda"
    scales = {"policy": config.policy_scale}
    heads = _heads(config, models)
    scales |= {"reward": config.reward_scale} if models.reward and "reward" not in heads else {}
    has_value = models.value and "value" not in heads and not _is_colocated(config)
    scales |= {"value": config.value_scale} if config.scorer or has_value else {}
    replicas = [
        Demand(
            name,
            scale.min_replicas,
            scale.max_replicas,
            scale.num_cpus,
            scale.num_gpus if is_gpu else 0,
            fewer=f"{name}_scale.min_replicas, num_cpus or num_gpus",
        )
        for name, scale in scales.items()
    ]
    return [
        *replicas,
        Demand("ingress", config.ingress_replicas, config.ingress_replicas, config.ingress_cpus),
    ]


def start(config: ServeConfig) -> None:
    """Start Serve if need be, and the application on it; return once it answers.

    Raises:
        ValueError: a model cannot be found, or the cluster has no room for the first replicas.
    """
    from ray import serve

    from jobs.capacity.preflight import check
    from jobs.runtime.serve_config import find_models

    check(_demands(config, find_models(config)))
    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
    serve.run(build(config.model_dump()), name=NAME, route_prefix="/")


def work(config: ServeConfig) -> dict[str, Any]:
    """Serve until interrupted, then finish the requests in progress."""
    from jobs.runtime import ray_setup

    find_models(config)
    read_keys(config.api_keys)
    with _keys_hidden():
        ray_setup.start()
    start(config)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray sets its own when it starts
        signal.signal(number, lambda *_: stop.set())
    logger.info("serving on http://%s:%d", config.host, config.port)
    stop.wait()
    end(config.seconds)
    return {}


@contextmanager
def _keys_hidden() -> Iterator[None]:
    """Keep the API keys out of the environment that Ray's processes take over from this one."""
    keys = os.environ.pop(KEYS, None)
    try:
        yield
    finally:
        if keys is not None:
            os.environ[KEYS] = keys


def end(seconds: float) -> None:
    """Take no more requests, finish those in progress within ``seconds``, and shut Serve down."""
    from ray import serve

    logger.info("finishing the requests that are being served")
    try:
        serve.get_app_handle(NAME).broadcast("drain").results(timeout_s=seconds)
    except TimeoutError:
        logger.warning("not all were finished within %g seconds", seconds)
    time.sleep(SECONDS_TO_SEND)
    serve.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(ServeConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
