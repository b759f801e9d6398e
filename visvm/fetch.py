"""Fetch images from untrusted URLs: data: URLs, and http(s) from hosts that are allowed by name.

The IP address is checked on each socket just before it connects. So it does not matter how the host was
spelled or resolved, or whether it resolves to another address the next time (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pydantic import Field, field_validator
from yarl import URL

from visvm.config import Config

if TYPE_CHECKING:
    import aiohttp

MAX_URL = 2048  # characters of an http(s) URL
CHUNK = 64 * 2**10
_URL_SAFE = str.maketrans("-_", "+/")
_HOST = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*(:[0-9]{1,5})?")
# IANA's special-purpose blocks, and the address of the host services of Azure's virtual machines.
_NOT_PUBLIC_4 = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12"
    " 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24"
    " 203.0.113.0/24 224.0.0.0/3"
)
# Only 2000::/3 is global unicast. Mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96), unique-local, link-local and
# multicast addresses lie outside it; Teredo, documentation and 6to4 addresses are excluded from it.
_GLOBAL_6 = ip_network("2000::/3")
_NOT_PUBLIC_6 = "2001::/23 2001:db8::/32 2002::/16 3fff::/20"
_BLOCKED: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(block) for block in f"{_NOT_PUBLIC_4} {_NOT_PUBLIC_6}".split()
)


class FetchError(ValueError):
    """The image is refused; ``status`` is the HTTP status (4xx) to respond with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Limits(Config):
    """What may be fetched; by default, nothing over a network."""

    hosts: tuple[str, ...] = Field(
        (), description='hosts that http(s) images may come from: "example.org" or "example.org:8443"'
    )
    max_bytes: int = Field(16 * 2**20, ge=1, description="bytes of one image's file")
    seconds: float = Field(10.0, gt=0, description="for one image, from the DNS lookup to the last byte")
    loopback: bool = Field(False, description="tests only: 127.0.0.1 and ::1 may be connected to")

    @field_validator("hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [host for host in value if not _HOST.fullmatch(host)]:
            raise ValueError(f"{wrong[0]!r} is not a host: expected one like example.org or example.org:8443")
        return value


async def fetch(url: str, limits: Limits) -> bytes:
    """Return the bytes of the image file at ``url`` (data: with base64, http or https); do not decode it.

    Raises:
        FetchError: the URL is not allowed, malformed, unreachable, too large or too slow; status 4xx.
    """
    import aiohttp  # half a second, which whoever only reads a config does without

    url = url.lstrip()
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return unpack_data_url(url, limits)
    if scheme not in ("http", "https"):
        raise FetchError("an image's URL must be a data: URL, or http(s) where the server allows the host")
    target = _target(url, limits)
    try:
        async with asyncio.timeout(limits.seconds):
            return await _download(target, limits)
    except TimeoutError:
        raise FetchError(f"{target.host} did not send the image in {limits.seconds:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, FetchError):
            raise
        # One message for all of these, so that it cannot reveal what listens on a private address.
        raise FetchError(f"{target.host} cannot be reached, or its address is not public") from None


def is_public(address: str) -> bool:
    """Return whether an IP address is on the public internet and does not tunnel to another address."""
    ip = ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _GLOBAL_6:
        return False
    return not any(ip in block for block in _BLOCKED)


def unpack_data_url(url: str, limits: Limits) -> bytes:
    """Return the bytes that a base64 data: URL holds, whatever media type it declares.

    Padding may be missing, and the alphabet may be that of URLs ("-" and "_").

    Raises:
        FetchError: it is malformed or too large.
    """
    if len(url) > limits.max_bytes * 4 // 3 + CHUNK:  # before any work on it
        raise _too_large(limits)
    header, comma, payload = url[len("data:") :].partition(",")
    if not comma or "base64" not in (part.strip() for part in header.lower().split(";")[1:]):
        raise FetchError("a data: URL must read data:image/TYPE;base64,DATA")
    letters = "".join(unquote(payload).split()).translate(_URL_SAFE).rstrip("=")
    try:
        data = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise FetchError("the data: URL is not valid base64") from None
    return _checked(data, limits)


def _target(url: str, limits: Limits) -> URL:
    """Parse the URL and check its host. The request uses the parsed URL, so both see the same host."""
    if not limits.hosts:
        raise FetchError("this server fetches no images: send them as data: URLs")
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or set(url) & set("\\ "):
        raise FetchError(f"an image's URL must be at most {MAX_URL} printable ASCII characters")
    try:
        target = URL(url)
        name, port = target.raw_host or "", target.port
    except ValueError:
        raise FetchError("the image's URL cannot be parsed") from None
    if target.raw_user is not None or target.raw_password is not None:
        raise FetchError("an image's URL must not hold a user name or password")
    full = f"{name}:{port}"
    if full not in limits.hosts and not (name in limits.hosts and target.is_default_port()):
        raise FetchError("the image's host is not one that this server allows")
    return target


async def _download(target: URL, limits: Limits) -> bytes:
    async with _session(limits) as session, session.get(target, allow_redirects=False) as response:
        if response.status != 200:
            raise FetchError(
                f"{target.host} answered {response.status}, not 200 (redirects are not followed)"
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError(f"{target.host} sent a compressed body, which is not accepted")
        if (response.content_length or 0) > limits.max_bytes:
            raise _too_large(limits)
        data = bytearray()
        async for chunk in response.content.iter_chunked(CHUNK):
            data += chunk
            if len(data) > limits.max_bytes:
                raise _too_large(limits)
        return _checked(bytes(data), limits)


def _session(limits: Limits) -> aiohttp.ClientSession:
    """Return a new session; images share no cookies, proxies or connections."""
    import aiohttp

    def connect(info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_public(address[0]) and not (limits.loopback and address[0] in ("127.0.0.1", "::1")):
            raise OSError("not a public address")
        return socket.socket(family, kind, protocol)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=connect, force_close=True),
        headers={"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "visvm"},
        timeout=aiohttp.ClientTimeout(total=limits.seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _checked(data: bytes, limits: Limits) -> bytes:
    if not data:
        raise FetchError("the image is empty (zero bytes)")
    if len(data) > limits.max_bytes:
        raise _too_large(limits)
    return data


def _too_large(limits: Limits) -> FetchError:
    return FetchError(f"the image is larger than {limits.max_bytes} bytes", status=413)
