"""The one real endpoint of a test session: the world's models in Serve, on the session's Ray."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import ray
from ray import serve

from jobs.serve import NAME, ServeConfig
from jobs.serve import start as start_serve
from tests.support.endpoint import body
from visvm import images
from visvm.config import load
from visvm.models import WORLD
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request
from visvm.reward import ClipScorer
from visvm.search import METHODS, SearchConfig, make_search
from visvm.value import ValueScorer
from visvm.world import coco_export

SMALL = {"num_cpus": 0.01}  # leaves the CPUs that Ray counts to other tests


@dataclass
class Endpoint:
    """The address of the endpoint, and the image files."""

    url: str
    files: list[Path]

    def chat(self, data: dict[str, Any]) -> httpx2.Response:
        """Send a chat request and return the response."""
        return httpx2.post(f"{self.url}/v1/chat/completions", json=data, timeout=300)

    def handle(self, deployment: str) -> Any:
        return serve.get_deployment_handle(deployment, NAME)

    def replicas(self, deployment: str) -> list[Any]:
        """Return the actors of the replicas of a deployment."""
        names = ray.util.list_named_actors(all_namespaces=True)
        start = f"SERVE_REPLICA::{NAME}#{deployment}#"
        return [ray.get_actor(**one) for one in names if one["name"].startswith(start)]

    def kill(self, deployment: str) -> None:
        """Kill the process of one replica, as the kernel does when memory runs out."""
        pid = ray.get(self.replicas(deployment)[0].__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGKILL)


def start(folder: Path) -> Iterator[Endpoint]:
    """Run an endpoint with two value replicas until the session ends."""
    coco_export.make(folder / "images", split="test", count=12)
    config = load(ServeConfig, port=free_port(), **scales())
    start_serve(config)
    files = sorted((folder / "images" / "images").iterdir())
    yield Endpoint(f"http://127.0.0.1:{config.port}", files)
    serve.shutdown()


def scales() -> dict[str, Any]:
    return {
        "ingress_cpus": 0.01,
        "policy_scale": SMALL,
        "reward_scale": SMALL,
        "value_scale": SMALL | {"min_replicas": 2, "max_replicas": 2},
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@dataclass(frozen=True)
class Case:
    """A request: its image file, prompt, search method and seed, and whether to stream."""

    file: Path
    prompt: str
    method: str
    seed: int
    stream: bool

    @property
    def body(self) -> dict[str, Any]:
        model = "policy" if self.method == "greedy" else "policy+search"
        fields = {"model": model, "seed": self.seed, "stream": self.stream}
        return body(self.file.read_bytes(), self.prompt, visvm={"method": self.method}, **fields)


def local_captions(cases: Sequence[Case]) -> list[str]:
    """Return the caption of each case, written alone in this process, without Serve."""
    policy = SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"))
    scorers: dict[str, Any] = {
        "none": None,
        "reward": ClipScorer.from_pretrained(str(WORLD / "clip")),
        "value": ValueScorer.from_pretrained(str(WORLD / "value")),
    }
    texts = []
    for case in cases:
        request = Request(images.load(str(case.file)), case.prompt, case.seed)
        search = make_search(case.method, SearchConfig(max_sentences=64))
        texts.append(search(policy, scorers[METHODS[case.method].needs], [request])[0].text)
    return texts
