"""Images by URL: known ways to reach private addresses, and oversized data, are refused."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import zlib
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image

from visvm.config import load
from visvm.fetch import FetchError, Limits, fetch, is_public
from visvm.images import decode

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'

NOT_PUBLIC = """
    0.0.0.0 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
    172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1
    203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1
    2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
    fe80::1%eth0 fec0::1 ff02::1
"""


def png(width: int = 8, height: int = 8) -> bytes:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def get(url: str, **limits: Any) -> bytes:
    return asyncio.run(fetch(url, Limits(**limits)))


def refused(url: str, **limits: Any) -> FetchError:
    with pytest.raises(FetchError) as caught:
        get(url, **limits)
    return caught.value


# data: URLs


def test_a_data_url_gives_its_bytes() -> None:
    assert get(data_url(png())) == png()
    assert get(data_url(png()).replace("data:", "DATA:").replace(";base64", ";name=a;BASE64")) == png()
    wrapped = "\n".join(data_url(png())[i : i + 40] for i in range(0, 400, 40))  # as base64(1) prints it
    assert get(wrapped) == png()


@pytest.mark.parametrize(
    ("url", "reason", "status"),
    [
        ("data:image/png;base64,", "zero bytes", 400),
        ("data:image/png;base64,@@@@", "not valid base64", 400),
        ("data:image/png;base64,AAAAA", "not valid base64", 400),
        ("data:image/png;base64,\u00e9", "not valid base64", 400),
        ("data:image/png;base64", "must read data:image/TYPE;base64,DATA", 400),
        ("data:image/png,%89PNG", "must read data:image/TYPE;base64,DATA", 400),
        ("data:,", "must read data:image/TYPE;base64,DATA", 400),
        (data_url(b"x" * 1001), "larger than 1000 bytes", 413),
        ("data:image/png;base64," + "A" * 10**6, "larger than 1000 bytes", 413),
        ("data:image/png;base64," + " " * 10**6, "larger than 1000 bytes", 413),
    ],
)
def test_a_bad_data_url_is_refused(url: str, reason: str, status: int) -> None:
    error = refused(url, max_bytes=1000)
    assert reason in str(error) and error.status == status


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (SVG, "cannot identify"),
        (b"%PDF-1.7", "cannot identify"),
        (b"<html>", "cannot identify"),
        (zlib.compress(png()), "cannot identify"),
        (png(400, 400)[:-40], "truncated"),
        (png(30_000, 30_000), "exceeds limit of"),  # Pillow's own
        (png(9_000, 9_000), "more than 16777216 pixels"),
    ],
)
def test_the_image_format_is_read_from_the_bytes(data: bytes, reason: str) -> None:
    assert len(data) < 200_000  # a bomb is small
    fetched = get(data_url(data))
    with pytest.raises(ValueError, match=reason):
        decode(fetched, id="a", uri="the image", max_pixels=2**24)


# which URLs may be asked


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org/a", "s3://bucket/a", "gopher://x", "/etc/passwd", ""],
)
def test_other_schemes_are_refused(url: str) -> None:
    assert "must be a data: URL" in str(refused(url, hosts=("example.org",)))


def test_nothing_is_fetched_without_allowed_hosts() -> None:
    assert "send them as data: URLs" in str(refused("https://example.org/a.png"))


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.test/",
        "http://example.org.evil.test/",
        "http://evil.test/example.org",
        "http://evil.test#@example.org/",
        "http://evil.test?@example.org/",
        "http://example.org@evil.test/",
        "http://user:password@example.org/",
        "http://evil.test\\@example.org/",
        "http://example.org\\.evil.test/",
        "http://example.org\r\nHost: evil.test/",
        "http://example.org%00.evil.test/",
        "http://example.org\t/",
        "http://ex\u00e4mple.org/",
        "http://\u2460\u2461\u2466.0.0.1/",
        "http://example.org./",
        "http://.example.org/",
        "http://sub.example.org/",
        "http://example.org:22/",
        "https://example.org:80/",
        "http://example.org:99999/",
        "http://example.org:http/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://0/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[0:0:0:0:0:ffff:7f00:1]/",
        "http://[fe80::1%25eth0]/",
        "http://[::1",
        "http://169.254.169.254/latest/meta-data/",
        "http:///a.png",
        "http:a.png",
        "http://",
        "http://example.org/" + "a" * 2048,
    ],
)
def test_a_host_that_is_not_allowed_is_never_contacted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*given: Any, **options: Any) -> None:
        raise AssertionError(f"looked up {given[0]}")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    error = refused(url, hosts=("example.org",), loopback=True)
    assert error.status == 400 and "cannot be reached" not in str(error)


@pytest.mark.parametrize("host", ["https://example.org", "example.org/", "Example.org", "", "*.org", "a:b"])
def test_a_malformed_host_is_refused_by_the_config(host: str) -> None:
    with pytest.raises(ValueError, match="is not a host: expected"):
        load(Limits, hosts=(host,))


# which addresses may be connected to


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::1"]
)
def test_other_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "data:image;base64,{}",
        "data:;base64,{}",
        "data:application/octet-stream;base64,{}",
        "data:text/html;base64,{}",
        "data:image/png;charset=utf-8;base64,{}",
        " DATA:image/PNG;BASE64,{}",
    ],
)
@pytest.mark.parametrize("change", ["padded", "unpadded", "for URLs", "with percent escapes", "in lines"])
def test_a_data_urls_bytes_count_and_not_its_media_type(url: str, change: str) -> None:
    data = b"\xfb\xef\xbe\xff" * 40
    text = base64.b64encode(data).decode()
    assert {"+", "/", "="} <= set(text)
    changed = {
        "padded": text,
        "unpadded": text.rstrip("="),
        "for URLs": base64.urlsafe_b64encode(data).decode(),
        "with percent escapes": quote(text, safe=""),
        "in lines": "\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
    }[change]
    assert get(url.format(changed)) == data
