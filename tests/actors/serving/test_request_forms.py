"""The forms in which clients send what they want: parts, URLs, content types, encodings, methods, origins."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import pytest

from actors.serving.admission import hash_key
from actors.serving.normalize import unpack
from tests.support.endpoint import body, expected, local, png
from visvm.chat import ChatError

__all__ = ["local"]

PATH = "/v1/chat/completions"
PAGE = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]["content"]


def test_an_image_may_be_a_string_and_its_media_type_is_not_asked(local: Any) -> None:
    app, data = local(), base64.b64encode(png()).decode()
    caption = expected(body(png()), png())
    for url in (f"data:image;base64,{data}", f"data:application/octet-stream;base64,{data}"):
        for image in (url, {"url": url, "detail": "auto"}):
            asked = body(png())
            asked["messages"][0]["content"][0]["image_url"] = image
            assert text_of(app.chat(asked)) == caption


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (5, "messages.0.content", "expected a string or a list of parts"),
        ([5], "messages.0.content.0", "object"),
        ([{"text": "secret"}], "messages.0.content.0", "expected an object with a type"),
        ([{"type": "secret"}], "messages.0.content.0", "expected a type of 'image_url', 'text'"),
        ([{"type": "text", "text": 5}], "messages.0.content.0.text", "valid string"),
        ([{"type": "text"}], "messages.0.content.0.text", "Field required"),
        ([{"type": "image_url", "text": "secret"}], "messages.0.content.0.image_url", "Field required"),
        ([{"type": "image_url", "image_url": {}}], "messages.0.content.0.image_url.url", "Field required"),
        ([{"type": "image_url", "image_url": 5}], "messages.0.content.0.image_url", "dictionary"),
    ],
)
def test_an_error_names_the_field_of_the_parts_own_type(
    local: Any, content: Any, param: str, message: str
) -> None:
    answer = local().chat(body(png(), messages=[{"role": "user", "content": content}]))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"] and "secret" not in answer.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f", "parameters": {}}}]),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 2),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
    ],
)
def test_what_would_change_the_answer_and_is_not_served_is_refused_by_name(
    local: Any, field: str, value: Any
) -> None:
    answer = local().chat(body(png(), **{field: value}))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == field
    assert field in answer.json()["error"]["message"]


def test_fields_that_ask_for_nothing_are_accepted(local: Any) -> None:
    neutral = {"response_format": {"type": "text"}, "tools": None, "logprobs": False, "modalities": ["text"]}
    nulls = dict.fromkeys(("temperature", "top_p", "n", "seed", "stream", "stream_options", "user"))
    assert text_of(local().chat(body(png(), **neutral, **nulls))) == expected(body(png()), png())


@pytest.mark.parametrize(
    "media",
    [None, "application/x-www-form-urlencoded", "text/plain", "application/vnd.api+json; charset=utf-8"],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf \n"])
def test_json_is_taken_under_any_content_type(local: Any, media: str | None, bom: bytes) -> None:
    headers = {"Content-Type": media} if media else {}
    answer = local().client.post(PATH, content=bom + json.dumps(body(png())).encode(), headers=headers)
    assert text_of(answer) == expected(body(png()), png())


def test_another_body_gets_a_415(local: Any) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = local().client.post(PATH, content=b"model=policy", headers=form)
    assert answer.status_code == 415 and "application/json" in answer.json()["error"]["message"]
    assert local().client.post(PATH, files={"image": png()}).status_code == 415
    broken = local().client.post(PATH, content=b"model", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_compressed_bodies_are_unpacked(local: Any, pack: Any, name: str) -> None:
    packed = pack(json.dumps(body(png())).encode())
    client = local().client
    assert text_of(client.post(PATH, content=packed, headers={"Content-Encoding": name})) == expected(
        body(png()), png()
    )
    for data, encoding, status in (
        (packed[:-9], name, 400),
        (packed + packed, name, 400),
        (b"{}", name, 400),
        (packed, "br", 415),
        (pack(b" " * 100_001), name, 413),
        (pack(b" " * 50_000_000), name, 413),
    ):
        answer = client.post(PATH, content=data, headers={"Content-Encoding": encoding})
        assert answer.status_code == status and answer.json()["error"]["message"], (data[:20], answer.text)


def test_a_bomb_is_unpacked_only_up_to_the_limit() -> None:
    assert unpack(gzip.compress(b"x" * 1000), 1000) == b"x" * 1000
    with pytest.raises(ChatError) as caught:
        unpack(gzip.compress(b"x" * 1001), 1000)
    assert caught.value.status == 413


def test_one_model_can_be_asked_for(local: Any) -> None:
    client = local().client
    listed = client.get("/v1/models").json()["data"]
    assert [client.get(f"/v1/models/{one['id']}").json() for one in listed] == listed
    assert client.get("/v1/models/policy%2Bsearch").json()["id"] == "policy+search"
    for name in ("gpt-4o", "meta/llama", "%00"):
        answer = client.get(f"/v1/models/{name}")
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/models", "/v1/models/policy", "/nothing"])
def test_head_answers_as_get_without_a_body(local: Any, path: str) -> None:
    client = local().client
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


def test_a_wrong_method_is_told_the_right_one(local: Any) -> None:
    answer = local().client.get(PATH)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_pages_of_other_origins_are_let_in_by_name_only(local: Any) -> None:
    shut = local().client.options(PATH, headers=PAGE)
    assert shut.status_code == 405 and "access-control-allow-origin" not in shut.headers
    app = local(cors_origins=(PAGE["Origin"],), key_hashes=(hash_key(b"key"),))
    asked = PAGE | {"Access-Control-Request-Headers": "authorization,content-type"}
    preflight = app.client.options(PATH, headers=asked)
    assert (
        preflight.status_code == 200 and "authorization" in preflight.headers["access-control-allow-headers"]
    )
    refused = app.chat(body(png()), headers={"Origin": PAGE["Origin"]})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == PAGE["Origin"]
    other = app.client.options(PATH, headers=PAGE | {"Origin": "https://evil.example"})
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
