"""What tests share: small models and images made once, and one local Ray for all that need it."""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep all tests that need Ray in one process, so that one Ray serves them beside the other tests."""
    if item.get_closest_marker("ray"):
        item.add_marker(pytest.mark.xdist_group("ray"))


S3_PORT = free_port()

os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # see jobs/__init__.py
# Tiny models gain nothing from a second thread, and on a busy machine its spinning costs minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
    os.environ.pop(name, None)
_cache = tempfile.TemporaryDirectory(prefix="visvm-cache-")
os.environ["VISVM_CACHE"] = _cache.name
# Where the fixture s3 listens; set before Ray starts, for its workers have the environment of then.
os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}", "AWS_DEFAULT_REGION": "us-east-1"}
os.environ |= {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray for the whole session: marked tests use it, jobs that start one find it."""
    import ray

    from jobs.runtime import ray_setup

    ray_setup.start(num_cpus=4)
    yield
    ray.shutdown()


class S3Server:
    """S3's protocol on loopback; what it holds is this process's and outlives ``stop``."""

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=S3_PORT, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The S3 that AWS_ENDPOINT_URL names, here and in Ray's workers."""
    server = S3Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> str:
    """A bucket of one's own, empty."""
    from visvm.storage.s3 import client

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client().create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(autouse=True)
def _ray_for_marked_tests(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("ray"):
        request.getfixturevalue("local_ray")


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random LLaVA."""
    from tests.support.tiny import save

    return save("llava", tmp_path_factory.mktemp("models") / "policy")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random CLIP."""
    from tests.support.tiny_clip import make_clip

    return make_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight small images and four files that are none."""
    from tests.support import tiny

    folder = tmp_path_factory.mktemp("photos")
    for i in range(8):
        tiny.image(i).pil.save(folder / f"{i:03d}.png")
    whole = (folder / "000.png").read_bytes()
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("ignored")
    return folder


@pytest.fixture(scope="session")
def endpoint(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The world's models behind a real endpoint; see tests/serving."""
    from tests.support.serving import start

    yield from start(tmp_path_factory.mktemp("endpoint"))
