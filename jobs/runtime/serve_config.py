"""What the endpoint serves, what a request may ask, and how each part scales."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jobs.inputs.shared_paths import SharedPaths
from visvm.chat import ChatLimits
from visvm.config import Config, ConfigT, ModelName, Options, Place
from visvm.fetch import Limits
from visvm.models import check_reward, check_value, check_writer, default_value, predicts, resolve
from visvm.plugins import check_scorer_name
from visvm.search import SearchConfig, find_method, make_search
from visvm.server_policy.names import ServedPolicy

KEYS = "VISVM_API_KEYS"


class Scale(Config):
    """How many replicas a deployment has, and what each takes."""

    min_replicas: int = Field(1, ge=0, description="fewest replicas; 0: none while there are no requests")
    max_replicas: int = Field(1, ge=1, description="most replicas")
    target_ongoing_requests: float = Field(8, gt=0, description="requests per replica to aim for")
    upscale_delay_s: float = Field(10, ge=0, description="seconds above that before a replica is added")
    downscale_delay_s: float = Field(300, ge=0, description="seconds below that before one is removed")
    num_cpus: float = Field(0.5, ge=0, description="logical CPUs per replica; if 1 or more, also its threads")
    num_gpus: float = Field(0.3, gt=0, description="GPUs per replica, if the device is a GPU")

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} is more than {self.max_replicas}")
        return self


def _defaults(section: type[ConfigT], **fields: Any) -> Callable[[], ConfigT]:
    return lambda: section.model_validate(fields)


class ServeConfig(SharedPaths, ServedPolicy):
    """Configuration of serve: the models, what a request may ask for, and how each part scales."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all (visvm serve only)")
    port: int = Field(8000, ge=1, lt=65536, description="port to listen on (visvm serve only)")
    policy: ModelName = Field("world", description='"world", local directory, hub id, or http://HOST/v1')
    value: ModelName | None = Field(
        None,
        description="directory or hub id of a value model or head (default: the world's, with its policy)",
    )
    reward: ModelName = Field(
        "auto",
        description='"none", "auto" (what fits the policy), local directory, hub id or ARCHITECTURE/WEIGHTS',
    )
    scorer: str | None = Field(
        None, description="a scorer of your own, MODULE:NAME, in place of the value and reward models"
    )
    search: str | None = Field(
        None, description="a search of your own, MODULE:NAME: served under that name, and the default"
    )
    calibration: Place | None = Field(
        None,
        description="calibration.json of visvm calibrate: cuts the captions of its method, and is reported",
    )
    centre: float | None = Field(
        None, description="reward at which a sentence adds no value (default: as the value model was trained)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of all models")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of all sampling")
    template: Options = Field({}, description="options of the chat template, e.g. enable_thinking=false")
    max_images: int = Field(64, ge=1, description="captions in flight per policy replica")
    max_rows: int = Field(192, ge=1, description="candidates written at a time per policy replica")
    cache_mb: int | None = Field(None, ge=1, description="MiB for keys and values")
    processor_pixels: int = Field(
        4 * 2**20,
        ge=4096,
        description="pixels that a processor which keeps the size of images (Qwen, GLM) scales them down to",
    )
    compile: bool = Field(False, description="run the decoding step as one compiled graph")
    value_cache_mb: int = Field(4096, ge=1, description="MiB for the images of a value replica")
    max_pixels: int = Field(32 * 2**20, ge=1, description="most pixels of an image")
    limits: ChatLimits = Field(
        default_factory=_defaults(ChatLimits), description="what one request may ask for"
    )
    fetch: Limits = Field(
        default_factory=_defaults(Limits),
        description="where images may come from, and how large they may be",
    )
    max_requests: int = Field(
        128, ge=1, description="requests in progress per ingress; further ones get a 503"
    )
    seconds: float = Field(120, gt=0, description="deadline of a request")
    patience: float = Field(
        60, gt=0, description="seconds for one step of the engine before it counts as stuck"
    )
    api_keys: str | None = Field(None, description=f"file of API keys, one per line; or set {KEYS}=KEY,KEY")
    cors_origins: tuple[str, ...] = Field(
        (), description='origins whose pages may call the API, like "https://app.example.org"; "*": any'
    )
    ingress_replicas: int = Field(1, ge=1, description="processes that serve HTTP")
    ingress_cpus: float = Field(0.25, ge=0, description="logical CPUs of each ingress")
    policy_scale: Scale = Field(
        default_factory=_defaults(Scale, num_cpus=1, num_gpus=0.5), description="replicas of the policy"
    )
    value_scale: Scale = Field(default_factory=_defaults(Scale), description="replicas of the value model")
    colocate_value: bool | None = Field(
        None,
        description="score in the policy's replicas, without a call per sentence (default: on a CPU, if"
        " value_scale is one replica)",
    )
    reward_scale: Scale = Field(
        default_factory=_defaults(Scale, num_gpus=0.2), description="replicas of the reward"
    )


@dataclass(frozen=True)
class Models:
    """Resolved names; None for what is not served. ``scorer`` is the user's own, MODULE:NAME."""

    policy: str
    reward: str | None = None
    value: str | None = None
    predict: str | None = None
    scorer: str | None = None

    @property
    def needs(self) -> set[str]:
        """What a search may need to be served."""
        if self.scorer:
            return {"none", "reward", "value"}
        learned = {"value": "value", "future": "reward+future"}.get(self.predict or "")
        return {"none", *filter(None, [self.reward and "reward", learned])}


def find_models(config: ServeConfig) -> Models:
    """Return the models of a config, which are there and fit each other; nothing is loaded.

    Raises:
        ValueError: one cannot be found or does not fit, or the own search needs what is not served.
    """
    models = _find_models(config)
    if config.search:
        make_search(config.search, SearchConfig.model_validate({}))
        needs = find_method(config.search).needs
        if needs not in models.needs:
            raise ValueError(f"search = {config.search!r} needs {needs!r}, and no model here gives that")
    return models


def _find_models(config: ServeConfig) -> Models:
    policy = check_writer(config.policy)
    if config.scorer:
        return Models(policy, scorer=check_scorer_name(config.scorer))
    reward = None if config.reward == "none" else check_reward(config.reward, policy=config.policy)
    value = config.value or default_value(policy)
    if value is None:
        return Models(policy, reward)
    predict = predicts(resolve(value, "value"))
    if predict == "future" and reward is None:
        raise ValueError(
            "reward = 'none': this value model predicts future rewards only and needs a reward model as well"
        )
    return Models(policy, reward, check_value(value, policy=policy, predict=predict), predict)


def read_promise(config: ServeConfig) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the method and options that a calibration is for, and what its captions report; else {}, None.

    Raises:
        ValueError: it cannot be read, or was made for another policy or reward.
    """
    from visvm.metrics.calibration_file import OPTIONS, read_calibration

    if config.calibration is None:
        return {}, None
    found = read_calibration(config.calibration)
    found.check(policy=config.policy, reward=config.reward, scorer=config.scorer)
    return found.model_dump(include={"method", *OPTIONS}), found.brief()


def read_keys(path: str | None) -> tuple[str, ...]:
    """Return the hashes of the API keys in a file, or else in the environment; none: no key is needed.

    Raises:
        ValueError: the file cannot be read, or what is given has no key in it.
    """
    from actors.serving.admission import hash_key

    if path is None:
        source, is_given = KEYS, KEYS in os.environ
        keys = os.environ.get(KEYS, "").split(",")
    else:
        source, is_given = "api_keys", True
        try:
            keys = Path(path).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"api_keys = {path!r}: cannot be read ({type(error).__name__})") from None
    hashes = tuple(hash_key(key.strip().encode()) for key in keys if key.strip())
    if is_given and not hashes:  # never open to everybody because of a slip
        raise ValueError(f"{source} = {path or os.environ[KEYS]!r}: has no key in it")
    return hashes
