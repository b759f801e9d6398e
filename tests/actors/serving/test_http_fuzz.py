"""Requests that no client would send: never an error of the server's own, never a trace of its inside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from actors.serving.http_app import make_app
from tests.support.endpoint import Local, body
from tests.support.servers import running
from tests.support.serving import Endpoint
from tests.visvm.test_fetch import SVG, data_url, png
from visvm.chat import ChatLimits
from visvm.fetch import Limits

PATH = "/v1/chat/completions"
FEW = ChatLimits(max_tokens=6, max_sentences=2, max_candidates=12, max_n=2)
HOSTS = ("localhost", "127.0.0.1", "10.0.0.1", "2130706433", "metadata.test")
QUIET = settings(deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
METHODS = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The application in this process, over the policy and scorer of arithmetic."""
    local = Local(
        methods=("prm", "mcts", "best_of_n", "oracle"),
        limits=FEW,
        fetch=Limits(max_bytes=150_000, seconds=2, hosts=HOSTS),
        max_requests=64,
        max_body_bytes=400_000,
    )
    with running(make_app(local.service)) as address:
        yield address
    local.close()


def check(response: Any) -> None:
    """An error is the client's (or 503), has OpenAI's shape and shows nothing of the inside."""
    status, text = response.status_code, response.text
    assert status < 500 or status == 503, (status, text)
    assert not any(word in text for word in ("Traceback", 'File "', "site-packages", "object at 0x")), text
    if status >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def mend(sent: Any, image: str) -> Any:
    """Half of the bodies get what chance does not write: an image, and the role that is served."""
    if not isinstance(sent, dict) or len(repr(sent)) % 2:
        return sent
    return sent | {"messages": body(image)["messages"], "max_completion_tokens": 6}


def fuzz(url: str, count: int) -> Counter[int]:
    """``2 * count`` chat requests made from the OpenAPI schema, right and wrong; the statuses they got."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    images = [data_url(png()), data_url(png(50, 20)[:-30]), data_url(SVG)]
    statuses: Counter[int] = Counter()

    def ask(case: schemathesis.Case) -> None:
        case.body = mend(case.body, images[statuses.total() % len(images)])
        response = case.call()
        statuses[response.status_code] += 1
        check(response)

    for found in schema.get_all_operations():
        operation = found.ok()
        is_chat = operation.path == PATH
        for mode in GenerationMode if is_chat else [GenerationMode.POSITIVE]:
            cases = operation.as_strategy(generation_mode=mode)
            settings(QUIET, max_examples=count if is_chat else 3)(given(cases)(ask))()
    return statuses


def test_requests_of_the_schema(url: str) -> None:
    statuses = fuzz(url, 40)
    assert statuses[200] >= 3 and statuses[400] > 20, statuses


@pytest.mark.slow
@pytest.mark.ray
def test_thousands_of_requests_to_a_real_endpoint(endpoint: Endpoint) -> None:
    statuses = fuzz(endpoint.url, 1_050)
    print(statuses)
    assert statuses.total() >= 2_000 and statuses[200] > 100, statuses


@settings(QUIET, max_examples=60)
@given(data=st.data())
def test_bodies_that_are_broken_anywhere(url: str, data: st.DataObject) -> None:
    whole = json.dumps(body(data_url(png()), visvm={"trace": True}, n=1)).encode()
    start = data.draw(st.integers(0, len(whole)))
    rubbish = data.draw(
        st.one_of(st.binary(max_size=8), st.sampled_from([b"NaN", b"1e999", b"\\ud800", b"{" * 5000]))
    )
    end = data.draw(st.integers(start, min(len(whole), start + 8)))
    kind = data.draw(
        st.sampled_from(["application/json", "text/plain", "multipart/form-data", "", "a/b; charset=x"])
    )
    sent = whole[:start] + rubbish + whole[end:]
    check(requests.post(url + PATH, data=sent, headers={"Content-Type": kind}, timeout=30))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [PATH, "/v1/nothing", "/../../etc/passwd", "/%00", "//", "/metrics"])
def test_other_methods_and_paths(url: str, method: str, path: str) -> None:
    response = requests.request(method, url + path, timeout=30)
    if method != "HEAD":
        check(response)


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (data_url(SVG), 400),
        (data_url(png(50, 50)[:-30]), 400),
        (data_url(png(30_000, 30_000)), 400),
        (data_url(png(2_000, 2_000)), 400),
        (data_url(b"0" * 150_001), 413),
        ("data:image/png;base64," + "A" * 10**6, 413),
        (data_url(b"<html></html>", media="text/html"), 400),
        ("data:image/png;base64,%%%", 400),
        ("https://example.org/a.png", 400),
        ("http://localhost:{port}/metrics", 400),
        ("http://localhost/", 400),
        ("http://127.0.0.1/", 400),
        ("http://10.0.0.1/", 400),
        ("http://2130706433/", 400),
        ("http://metadata.test/latest/meta-data/", 400),
        ("http://169.254.169.254/latest/meta-data/", 400),
        ("http://[::1]/", 400),
        ("http://localhost@169.254.169.254/", 400),
        ("file:///etc/passwd", 400),
        ("/etc/passwd", 400),
        ("", 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_images_that_are_refused(url: str, image: str, status: int, *, stream: bool) -> None:
    asked = image.format(port=url.rpartition(":")[2])
    response = requests.post(url + PATH, json=body(asked, stream=stream), timeout=30)
    assert response.status_code == status
    check(response)
    assert "root:" not in response.text
