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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from ray import serve
from ray.serve import Application

from actors import deployments
from actors.gate import hash_key
from actors.service import Settings
from jobs import ray_setup
from jobs.command import run
from jobs.models import check_policy, check_reward, check_value, resolve
from visvm.chat import ChatLimits, served_methods
from visvm.config import Config, ConfigT, load
from visvm.fetch import Limits
from visvm.value import check_value_model

NAME = "visvm"
KEYS = "VISVM_API_KEYS"
METRICS_SECONDS = 2
HEALTH_SECONDS = 2
SECONDS_TO_SEND = 0.5  # for the proxy, after the last response is handed to it
BODY_BESIDE_PICTURE = 2**20
logger = logging.getLogger(__name__)


class Scale(Config):
    """How many replicas a deployment has, and what each takes."""

    min_replicas: int = Field(1, ge=0, description="replicas at least; 0: none while there are no requests")
    max_replicas: int = Field(1, ge=1, description="replicas at most")
    target_ongoing_requests: float = Field(8, gt=0, description="more a replica, and one is added")
    upscale_delay_s: float = Field(10, ge=0, description="seconds of more than that, before one is added")
    downscale_delay_s: float = Field(300, ge=0, description="seconds of less than that, before one goes")
    num_cpus: float = Field(0.5, ge=0, description="logical CPUs of a replica; its threads, if 1 or more")
    num_gpus: float = Field(0.3, gt=0, description="GPUs of a replica, if the device is a GPU")

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} is more than {self.max_replicas}")
        return self


def _defaults(section: type[ConfigT], **fields: Any) -> Callable[[], ConfigT]:
    return lambda: section.model_validate(fields)


class ServeConfig(Config):
    """Configuration of serve: the models, what a request may ask, and how each part scales."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all (visvm serve only)")
    port: int = Field(8000, ge=1, lt=65536, description="port to listen on (visvm serve only)")
    policy: str = Field("world", description='"world", local directory or hub id of the VLM')
    value: str | None = Field(
        None, description="directory of a value model, for visvm and reward_plus_future"
    )
    reward: str = Field(
        "auto",
        description='"none", "auto" (what fits the policy), local directory, hub id or ARCHITECTURE/WEIGHTS',
    )
    centre: float | None = Field(
        None, description="reward at which a sentence is worth nothing, for the value model"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of all models")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of all sampling")
    max_pictures: int = Field(64, ge=1, description="captions that a policy replica has in flight")
    max_rows: int = Field(192, ge=1, description="candidates that a policy replica writes at a time")
    cache_mb: int | None = Field(None, ge=1, description="MiB for the keys and values of both")
    value_cache_mb: int = Field(4096, ge=1, description="MiB for the pictures of a value replica")
    max_pixels: int = Field(32 * 2**20, ge=1, description="pixels of a picture")
    limits: ChatLimits = Field(
        default_factory=_defaults(ChatLimits), description="what one request may ask for"
    )
    fetch: Limits = Field(
        default_factory=_defaults(Limits),
        description="where pictures may come from, and how large they may be",
    )
    max_requests: int = Field(
        128, ge=1, description="requests an ingress serves or lets wait; others get a 503"
    )
    seconds: float = Field(120, gt=0, description="deadline of a request")
    patience: float = Field(
        60, gt=0, description="seconds for one turn of the engine, before it counts as stuck"
    )
    api_keys: str | None = Field(None, description=f"file of API keys, one a line; or set {KEYS}=KEY,KEY")
    ingress_replicas: int = Field(1, ge=1, description="processes that speak HTTP")
    ingress_cpus: float = Field(0.25, ge=0, description="logical CPUs of each")
    policy_scale: Scale = Field(
        default_factory=_defaults(Scale, num_cpus=1, num_gpus=0.5), description="replicas of the policy"
    )
    value_scale: Scale = Field(default_factory=_defaults(Scale), description="replicas of the value model")
    reward_scale: Scale = Field(
        default_factory=_defaults(Scale, num_gpus=0.2), description="replicas of the reward"
    )


def build(args: dict[str, Any]) -> Application:
    """The application that ``serve deploy`` and ``visvm serve`` start; ``args`` are fields of ServeConfig.

    Raises:
        ValueError: naming the field, the value and what was expected.
    """
    config = load(ServeConfig, **args)
    models, loading = find_models(config), ray_setup.loading(config.device, config.dtype)
    scorers = _scorers(config, models, loading)
    policy = _scaled(deployments.Policy, config.policy_scale, config, room=config.max_pictures).bind(
        _policy_keywords(config) | loading | {"name": models.policy},
        scorers,
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
    return ingress.bind(policy, _settings(config, ["none", *scorers]))


@dataclass(frozen=True)
class Models:
    """Resolved names; None for what is not served."""

    policy: str
    reward: str | None
    value: str | None
    predict: str | None


def find_models(config: ServeConfig) -> Models:
    """Look that all models are there and fit each other; nothing is loaded.

    Raises:
        ValueError: one cannot be found, or does not fit.
    """
    policy = check_policy(config.policy)
    reward = None if config.reward == "none" else check_reward(config.reward, policy=config.policy)
    if config.value is None:
        return Models(policy, reward, None, None)
    predict = check_value_model(resolve(config.value, "value")).predict
    if predict == "future" and reward is None:
        raise ValueError(
            "reward = 'none': this value model predicts what follows, and needs a reward beside it"
        )
    return Models(policy, reward, check_value(config.value, policy=policy, predict=predict), predict)


def read_keys(path: str | None) -> tuple[str, ...]:
    """The hashes of the API keys in a file or, without one, in the environment; none: no key is asked for.

    Raises:
        ValueError: the file cannot be read or holds no key.
    """
    if path is None:
        keys = os.environ.get(KEYS, "").split(",")
    else:
        try:
            keys = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"api_keys = {path!r}: cannot be read ({type(error).__name__})") from None
    hashes = tuple(hash_key(key.strip().encode()) for key in keys if key.strip())
    if path is not None and not hashes:
        raise ValueError(f"api_keys = {path!r}: holds no key")
    return hashes


def _scorers(config: ServeConfig, models: Models, loading: dict[str, str]) -> dict[str, Any]:
    """The applications that score, by what a search method needs."""
    reward = {"name": models.reward, **loading} if models.reward else None
    scorers = {}
    if models.value:
        value = {"name": models.value, "centre": config.centre, "cache_mb": config.value_cache_mb, **loading}
        needs, beside = ("value", None) if models.predict == "value" else ("reward+future", reward)
        app = _scaled(deployments.Value, config.value_scale, config, room=4 * deployments.BATCH)
        scorers[needs] = app.bind(value, beside, max_pictures=config.max_pictures)
    if reward:
        app = _scaled(deployments.Reward, config.reward_scale, config, room=4 * deployments.BATCH)
        scorers["reward"] = app.bind(reward, max_pictures=config.max_pictures)
    return scorers


def _scaled(deployment: Any, scale: Scale, config: ServeConfig, *, room: int) -> Any:
    """A deployment with its scale; ``room``: requests that a replica takes at a time."""
    is_gpu = ray_setup.loading(config.device, config.dtype)["device"] == "cuda"
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


def _policy_keywords(config: ServeConfig) -> dict[str, Any]:
    names = ("top_p", "max_pictures", "max_rows", "cache_mb")
    return {"max_new_tokens": config.limits.max_tokens} | {name: getattr(config, name) for name in names}


def _settings(config: ServeConfig, needs: Sequence[str]) -> Settings:
    return Settings(
        methods=tuple(served_methods(needs)),
        limits=config.limits,
        fetch=config.fetch,
        max_requests=config.max_requests,
        seconds=config.seconds,
        max_body_bytes=config.fetch.max_bytes * 4 // 3 + BODY_BESIDE_PICTURE,
        key_hashes=read_keys(config.api_keys),
    )


def start(config: ServeConfig) -> None:
    """Start Serve, if need be, and the application on it; done when it answers."""
    serve.start(proxy_location="HeadOnly", http_options={"host": config.host, "port": config.port})
    serve.run(build(config.model_dump()), name=NAME, route_prefix="/")


def work(config: ServeConfig) -> dict[str, Any]:
    """Serve until interrupted; requests that are being served are finished first."""
    find_models(config)
    read_keys(config.api_keys)
    ray_setup.start()
    start(config)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray sets its own when it starts
        signal.signal(number, lambda *_: stop.set())
    logger.info("serving on http://%s:%d", config.host, config.port)
    stop.wait()
    end(config.seconds)
    return {}


def end(seconds: float) -> None:
    """Take no more requests, finish those that were taken, within so many seconds, and shut Serve down."""
    logger.info("finishing the requests that are being served")
    try:
        serve.get_app_handle(NAME).broadcast("drain").results(timeout_s=seconds)
    except TimeoutError:
        logger.warning("not all were finished within %g seconds", seconds)
    time.sleep(SECONDS_TO_SEND)
    serve.shutdown()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; the exit status."""
    return run(ServeConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
