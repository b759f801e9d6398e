"""Names of served policies: "http://HOST/v1#MODEL"."""

from __future__ import annotations

import os
from typing import Any

from pydantic import Field, model_validator

from visvm.config import Config


def is_server(name: str) -> bool:
    """Return whether a policy's name is the address of a server."""
    return name.startswith(("http://", "https://"))


def address_and_model(name: str) -> tuple[str, str]:
    """Split "http://HOST/v1#MODEL"; the model is "" if it is not named."""
    url, _, model = name.partition("#")
    return url.rstrip("/"), model


class ServedPolicy(Config):
    """What is said of a policy that a server has: ``policy`` is the server's address."""

    policy_model: str | None = Field(None, description="name of the model at the server that --policy names")
    policy_seeds: bool = Field(True, description="send seeds to the server; some fail with them")

    @model_validator(mode="before")
    @classmethod
    def _join(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not (model := data.get("policy_model")):
            return data
        if not is_server(policy := str(data.get("policy"))):
            raise ValueError("policy_model names a model at a server: give its address as the policy")
        return data if "#" in policy else {**data, "policy": f"{policy}#{model}"}


def api_key() -> str:
    """Return the key for the server: VISVM_POLICY_KEY, else OPENAI_API_KEY, of the environment."""
    return os.environ.get("VISVM_POLICY_KEY") or os.environ.get("OPENAI_API_KEY") or "none"
