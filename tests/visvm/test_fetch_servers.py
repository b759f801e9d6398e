"""Images from servers: which ones are contacted, and which responses are accepted."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.visvm.test_fetch import png
from visvm.fetch import FetchError, Limits, fetch

BOMB = zlib.compress(b"0" * 10**6)


@asynccontextmanager
async def server(answer: bytes, *, rest: bytes = b"", pause: float = 0.0) -> AsyncIterator[tuple[int, list]]:
    """Start a loopback server that sends ``answer``, then ``rest`` forever; give its port and requests."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            writer.write(answer)
            while rest:
                writer.write(rest)
                await writer.drain()
                await asyncio.sleep(pause)
        except OSError:
            pass
        finally:
            writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield running.sockets[0].getsockname()[1], asked


def from_server(answer: bytes, *, rest: bytes = b"", pause: float = 0.0, **limits: Any) -> tuple[bytes, list]:
    """Fetch the response of a loopback server."""

    async def both() -> tuple[bytes, list]:
        async with server(answer, rest=rest, pause=pause) as (port, asked):
            allowed = Limits(**{"hosts": (f"localhost:{port}",), "loopback": True} | limits)
            return await fetch(f"http://localhost:{port}/a.png", allowed), asked

    return asyncio.run(both())


def answer(body: bytes = b"", *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}Connection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize("hosts", ["localhost", "127.0.0.1", "rebind.test"])
def test_an_allowed_host_at_a_private_address_is_refused_before_connecting(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is allowed and a server listens, but it is never contacted, whatever DNS said before."""
    answers = iter(["93.184.215.14"] + ["127.0.0.1"] * 9)  # for whoever checks, then connects
    real = socket.getaddrinfo

    def resolve(host: str, *given: Any, **options: Any) -> Any:
        return real(next(answers) if host == "rebind.test" else host, *given, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert socket.getaddrinfo("rebind.test", 80)[0][4][0] == "93.184.215.14"

    async def both() -> list:
        async with server(answer(png())) as (port, asked):
            with pytest.raises(FetchError, match="cannot be reached, or its address is not public"):
                await fetch(f"http://{hosts}:{port}/", Limits(hosts=(f"{hosts}:{port}",)))
            return asked

    assert asyncio.run(both()) == []


def test_one_public_address_among_private_ones_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    real_socket = socket.socket

    def resolve(host: str, port: int, *given: Any, **options: Any) -> list:
        kinds = [(a, socket.AF_INET6 if ":" in a else socket.AF_INET) for a in ("10.0.0.1", "::1", "8.8.8.8")]
        return [(family, socket.SOCK_STREAM, 6, "", (a, port)) for a, family in kinds]

    class Refusing(real_socket):
        def __init__(self, *given: Any, **options: Any) -> None:
            tried.append(given)
            raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    limits = Limits(hosts=("example.org",))

    async def ask() -> None:
        monkeypatch.setattr(socket, "socket", Refusing)
        try:
            await fetch("http://example.org/", limits)
        finally:
            monkeypatch.setattr(socket, "socket", real_socket)

    with pytest.raises(FetchError):
        asyncio.run(ask())
    assert set(tried) == {(socket.AF_INET, socket.SOCK_STREAM, 6)}


# what an allowed server may answer


def test_a_request_names_the_host_and_sends_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    data, asked = from_server(answer(png(), headers="Set-Cookie: a=b\r\n"))
    assert data == png()
    request = asked[0].decode().lower()
    assert request.startswith("get /a.png http/1.1\r\nhost: localhost:")
    assert "accept-encoding: identity" in request
    assert not any(f"\n{name}:" in request for name in ("cookie", "authorization", "referer"))


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirects_are_not_followed(status: str) -> None:
    async def both() -> list:
        async with server(answer(png())) as (inner, asked):
            moved = answer(status=status, headers=f"Location: http://localhost:{inner}/\r\n")
            async with server(moved) as (outer, _):
                limits = Limits(hosts=(f"localhost:{outer}", f"localhost:{inner}"), loopback=True)
                with pytest.raises(FetchError, match="redirects are not followed"):
                    await fetch(f"http://localhost:{outer}/", limits)
            return asked

    assert asyncio.run(both()) == []


@pytest.mark.parametrize(
    ("said", "reason", "status"),
    [
        (answer(b"no", status="404 Not Found"), "answered 404", 400),
        (answer(b"no", status="500 Oops"), "answered 500", 400),
        (answer(b"", headers="Content-Length: 0\r\n"), "zero bytes", 400),
        (answer(b"x" * 50, headers="Content-Length: 100\r\n"), "cannot be reached", 400),
        (answer(b"x", headers="Content-Length: 999999999999\r\n"), "larger than 5000 bytes", 413),
        (answer(b"x" * 9000), "larger than 5000 bytes", 413),
        (
            answer(zlib.compress(b"0" * 10**6), headers="Content-Encoding: deflate\r\n"),
            "compressed body",
            400,
        ),
        (answer(zlib.compress(b"0" * 10**6), headers="Content-Encoding: gzip\r\n"), "compressed body", 400),
        (answer(headers="X: " + "a" * 10**5 + "\r\n"), "cannot be reached", 400),
        (b"rubbish\r\n\r\n", "cannot be reached", 400),
        (b"", "cannot be reached", 400),
    ],
)
def test_a_bad_response_is_refused(said: bytes, reason: str, status: int) -> None:
    with pytest.raises(FetchError, match=reason) as caught:
        from_server(said, max_bytes=5000)
    assert caught.value.status == status


def test_an_endless_body_ends_at_the_limit() -> None:
    with pytest.raises(FetchError, match="larger than 1000000 bytes"):
        from_server(answer(), rest=b"0" * 100_000, max_bytes=10**6)


@pytest.mark.parametrize("said", [answer(), b"HTTP/1.1 200 OK\r\nX: "])
def test_a_slow_server_times_out(said: bytes) -> None:
    with pytest.raises(FetchError, match=r"did not send the image in 0\.2 seconds"):
        from_server(said, rest=b"0", pause=0.02, seconds=0.2)
