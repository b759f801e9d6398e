"""The endpoint in Serve: the captions of `visvm caption`, whatever else is in flight and whoever dies."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import ray
import yaml

from jobs import caption, serve
from jobs.runner.part_files import read_rows
from jobs.runtime import serve_config
from tests.support.endpoint import body, chunks, data_url, png, said
from tests.support.fakes import until
from tests.support.paths import ROOT
from tests.support.serving import Case, Endpoint, local_captions, scales
from visvm.config import load
from visvm.images import content_hash
from visvm.prompts import DETAIL_PROMPTS

METHODS = ("visvm", "prm", "greedy", "best_of_n")


def cases(endpoint: Endpoint, num: int) -> list[Case]:
    """So many different requests: images, prompts, methods, seeds, streamed or not."""
    kinds = product(DETAIL_PROMPTS[:3], (0, 7), endpoint.files)
    return [
        Case(file, prompt, METHODS[i % 4], seed, stream=i % 3 == 0)
        for i, (prompt, seed, file) in enumerate(islice(kinds, num))
    ]


def text_of(endpoint: Endpoint, case: Case) -> str:
    answer = endpoint.chat(case.body)
    assert answer.status_code == 200, answer.text
    return said(chunks(answer.text)) if case.stream else answer.json()["choices"][0]["message"]["content"]


def all_at_once(endpoint: Endpoint, cases: Sequence[Case]) -> list[str]:
    with ThreadPoolExecutor(len(cases)) as pool:
        return list(pool.map(lambda case: text_of(endpoint, case), cases))


@pytest.mark.ray
def test_captions_are_those_of_the_caption_job(endpoint: Endpoint, tmp_path: Path) -> None:
    flags = ["--images", str(endpoint.files[0].parent), "--sample", "4", "--method", "visvm"]
    flags += ["--out", str(tmp_path / "out")]
    assert caption.main(flags) == 0
    rows = list(read_rows(tmp_path / "out" / "captions"))
    wanted = [Case(Path(row["uri"]), row["prompt"], "visvm", 0, stream=False) for row in rows]
    assert all_at_once(endpoint, wanted) == [row["caption"] for row in rows]
    assert len({row["caption"] for row in rows}) > 1


@pytest.mark.ray
@pytest.mark.parametrize("num", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_each_of_many_mixed_requests_gets_its_own_caption(endpoint: Endpoint, num: int) -> None:
    mixed = cases(endpoint, num)
    texts = all_at_once(endpoint, mixed)
    assert texts == local_captions(mixed)
    assert len(set(texts)) > num / 2


@pytest.mark.ray
def test_an_image_is_sent_to_one_value_replica_alone(endpoint: Endpoint) -> None:
    """The router passes over a replica that is slow to answer, so a busy machine may take several rounds."""
    value = endpoint.handle("Value")

    def known() -> list[set[str]]:
        """The images that each replica has."""
        return [set(keys) for keys in value.broadcast("known").results(timeout_s=60)]

    def is_sent_once(images: list[bytes]) -> bool:
        for image, seed in product(images, (0, 1, 2)):
            endpoint.chat(body(image, max_tokens=12, seed=seed, visvm={"method": "visvm"}))
        keys = {content_hash(image) for image in images}
        held = [keys & some for some in known()]
        assert set.union(*held) == keys
        return len(held) == 2 and all(held) and set.isdisjoint(*held)

    until(lambda: len(known()) == 2)
    rounds = [[png(8 * number + i) for i in range(8)] for number in range(4)]  # all new
    assert any(is_sent_once(images) for images in rounds)


@pytest.mark.ray
def test_when_the_client_leaves_rows_and_image_are_free(endpoint: Endpoint) -> None:
    def usage() -> dict[str, int]:
        return endpoint.handle("Policy").usage.remote().result()

    long = body(endpoint.files[0].read_bytes(), stream=True, n=2, visvm={"method": "mcts"})
    address = urlsplit(endpoint.url)
    left = left_so_far(endpoint)
    with socket.create_connection((address.hostname, address.port)) as client:
        data = json.dumps(long).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        assert client.recv(12) == b"HTTP/1.1 200"
    until(lambda: not any(usage().values()))
    until(lambda: left_so_far(endpoint) == left + 1)


def left_so_far(endpoint: Endpoint) -> float:
    """How many clients left before they had their answer."""
    lines = httpx2.get(f"{endpoint.url}/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if "requests_total{" in line and 'status="499"' in line
    )


@pytest.mark.ray
def test_no_log_of_ray_tells_what_was_asked(endpoint: Endpoint) -> None:
    prompt, image = "Describe the zebrafinch.", endpoint.files[0].read_bytes()
    statuses = [
        endpoint.chat(body(image, prompt, max_tokens=5)).status_code,
        endpoint.chat(body(image[:200], prompt)).status_code,
        endpoint.chat(body(image, prompt, n="zebrafinch")).status_code,
        httpx2.get(f"{endpoint.url}/zebra").status_code,
    ]
    assert statuses == [200, 400, 400, 404]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())

    def texts() -> dict[Path, str]:
        return {path: path.read_text(errors="replace") for path in logs.rglob("*") if path.is_file()}

    until(lambda: any("POST /v1/chat/completions 200" in text for text in texts().values()))
    secrets = ("zebrafinch", data_url(image)[30:80])
    assert [path for path, text in texts().items() if any(secret in text for secret in secrets)] == []


@pytest.mark.ray
def test_replicas_killed_under_load_lose_no_request(endpoint: Endpoint) -> None:
    """Each of eight clients asks for its caption again and again until all replicas have been killed."""
    mixed, is_over = cases(endpoint, 8), threading.Event()

    def texts(case: Case) -> set[str]:
        seen = {text_of(endpoint, case)}
        while not is_over.is_set():
            seen.add(text_of(endpoint, case))
        return seen

    with ThreadPoolExecutor(len(mixed)) as pool:
        asked = [pool.submit(texts, case) for case in mixed]
        try:
            until(lambda: endpoint.handle("Policy").usage.remote().result()["captions"] > 2)
            for deployment in ("Value", "Reward", "Policy"):
                endpoint.kill(deployment)
        finally:
            is_over.set()
    assert [one.result() for one in asked] == [{text} for text in local_captions(mixed)]


@pytest.mark.slow
@pytest.mark.ray
def test_beyond_what_fits_the_answer_is_503_with_retry_after(endpoint: Endpoint) -> None:
    """Through Serve's own proxy, which must not keep requests back for ever or answer by itself."""
    port = urlsplit(endpoint.url).port
    serve.start(load(serve.ServeConfig, port=port, max_requests=2, **scales()))
    try:
        long = body(endpoint.files[0].read_bytes(), visvm={"method": "mcts"})
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(endpoint.chat, [long] * 8))
    finally:
        serve.start(load(serve.ServeConfig, port=port, **scales()))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503} and statuses[200] >= 2
    refused = [answer for answer in answers if answer.status_code == 503]
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in refused)


@pytest.mark.slow
@pytest.mark.ray
def test_a_replica_whose_engine_died_is_replaced(endpoint: Endpoint) -> None:
    def break_engine(_: Any) -> None:
        [engine] = [thread for thread in threading.enumerate() if thread.name == "engine"]
        engine._target.__self__._commands.put(lambda: 1 / 0)  # type: ignore[attr-defined]

    [before] = endpoint.replicas("Policy")
    ray.get(before.__ray_call__.remote(break_engine))
    [case] = cases(endpoint, 1)
    until(lambda: endpoint.replicas("Policy") not in ([before], []))
    assert text_of(endpoint, case) == local_captions([case])[0]


@pytest.mark.ray
@pytest.mark.parametrize("name", ["policy", "value", "reward"])
def test_replicas_without_room_are_refused_at_once(name: str) -> None:
    many = {f"{name}_scale": {"min_replicas": 100, "max_replicas": 100}}
    with pytest.raises(ValueError, match=rf"{name}: 100 actors .* lower {name}_scale"):
        serve.start(load(serve.ServeConfig, **many))


def test_serve_yaml_is_the_application_of_visvm_serve() -> None:
    [application] = yaml.safe_load((ROOT / "cluster" / "serve.yaml").read_text())["applications"]
    assert application["import_path"] == "jobs.serve:build" and application["name"] == serve.NAME
    assert load(serve.ServeConfig, **application["args"]) == load(serve.ServeConfig)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--policy", "./missing"], "no such directory"),
        (["--value", "./missing"], "no such directory"),
        (["--reward", "./missing"], "no such directory"),
        (["--port", "0"], "port"),
        (["--api-keys", "./missing"], "api_keys"),
        (["--set", "value_scale.min_replicas=2"], "min_replicas = 2 is more than 1"),
        (["--set", "limits.beams=2"], "unknown key"),
        (["--set", "policy_scale.num_cpus=1000"], "lower policy_scale.min_replicas"),
    ],
)
@pytest.mark.ray
def test_a_users_mistake_is_one_line_and_exit_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve.main(flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("one\n\n two \n")
    assert len(serve_config.read_keys(str(tmp_path / "keys"))) == 2
    assert serve_config.read_keys(None) == ()
    monkeypatch.setenv(serve_config.KEYS, "two,one")
    assert set(serve_config.read_keys(None)) == set(serve_config.read_keys(str(tmp_path / "keys")))
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(ValueError, match="no key"):
        serve_config.read_keys(str(tmp_path / "keys"))


@pytest.mark.parametrize("given", ["", " , ", ","])
def test_keys_without_a_key_in_them_are_refused_instead_of_serving_everybody(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(serve_config.KEYS, given)
    assert serve.main([]) == 2
    assert f"{serve_config.KEYS} = {given!r}: has no key in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("policy", "shown", "is_world"),
    [("world", "world", True), ("org/model", "org/model", False), ("s3://bucket/runs/model", "model", False)],
)
def test_the_page_names_the_policy_but_no_path(*, policy: str, shown: str, is_world: bool) -> None:
    settings = serve._settings(serve.ServeConfig(policy=policy), ["none"])
    assert (settings.policy, settings.is_world) == (shown, is_world)
