"""Ray as jobs start it: strangers are refused, and a cluster that does not answer is an error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import ray

from jobs.runtime import ray_setup

JOIN = """
import ray
from ray._raylet import GcsClient
try:
    GcsClient(address={address!r})  # the first thing that ray.init does, which tries it for 25 seconds
    ray.init({address!r}, logging_level="ERROR")
    print("joined")
except ray.exceptions.AuthenticationError:
    print("refused")
"""


def join(address: str, **env: str) -> str:
    """What another program sees that joins the Ray at ``address`` with these variables of Ray's."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    program = [sys.executable, "-c", JOIN.format(address=address)]
    done = subprocess.run(program, env=mine | env, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.strip()


@pytest.mark.ray
@pytest.mark.parametrize(
    "env",
    [
        pytest.param({"RAY_AUTH_MODE": "disabled"}, id="no token"),
        pytest.param({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, id="another token"),
    ],
)
def test_a_stranger_is_refused_by_the_ray_that_jobs_start(env: dict[str, str]) -> None:
    address = ray.get_runtime_context().gcs_address
    assert join(address, **env) == "refused"


@pytest.mark.ray
def test_whoever_has_the_token_may_join() -> None:
    address = ray.get_runtime_context().gcs_address
    token = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
    assert token["RAY_AUTH_MODE"] == "token"
    assert join(address, **token) == "joined"


@pytest.mark.parametrize("is_listening", [True, False], ids=["silent", "closed"])
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_ray_address_that_does_not_answer_is_an_error_soon(
    scheme: str, is_listening: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_setup, "SECONDS_TO_ANSWER", 1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if is_listening:
            listener.listen()
        address = f"{scheme}127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=f"RAY_ADDRESS = '{address}': no Ray answers"):
            ray_setup.start()
