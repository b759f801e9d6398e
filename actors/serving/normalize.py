"""Requests as clients send them, brought to the form that the routes take: GET, and plain JSON."""

from __future__ import annotations

import asyncio
import zlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.admission import replayed, respond
from visvm.chat import ChatError

BOM = b"\xef\xbb\xbf"
ANY_ENCODING = 47  # zlib's wbits: gzip or zlib, told by the header
ENCODINGS = ("gzip", "x-gzip", "deflate")


class NormalizeMiddleware:
    """ASGI middleware: HEAD is GET without a body; bodies are unpacked, and JSON under any Content-Type."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        """``max_bytes`` limits an unpacked body."""
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self.app({**scope, "method": "GET"}, receive, _without_body(send))
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._post(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _post(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(raw=list(scope["headers"]))
        try:
            body = await self._unpacked(await _read(receive), headers.get("content-encoding", ""))
            _check_is_json(body, headers.get("content-type", ""))
        except ChatError as error:
            await respond(error)(scope, receive, send)
            return
        headers["content-type"], headers["content-length"] = "application/json", str(len(body))
        del headers["content-encoding"]
        await self.app({**scope, "headers": headers.raw}, replayed(body, receive), send)

    async def _unpacked(self, body: bytes, encoding: str) -> bytes:
        name = encoding.strip().lower()
        if name in ("", "identity"):
            return body
        if name not in ENCODINGS:
            raise ChatError(415, "Content-Encoding: expected gzip, deflate or identity")
        return await asyncio.to_thread(unpack, body, self.max_bytes)


def unpack(body: bytes, max_bytes: int) -> bytes:
    """Return the content of a gzip or zlib body; never more than ``max_bytes`` are unpacked.

    Raises:
        ChatError: 400 if it is neither, is cut short or goes on after its end; 413 if its content is larger.
    """
    stream = zlib.decompressobj(ANY_ENCODING)
    try:
        out = stream.decompress(body, max_bytes + 1)
    except zlib.error:
        raise ChatError(400, "the body is not what its Content-Encoding says") from None
    if len(out) > max_bytes:
        raise ChatError(413, f"a request may have at most {max_bytes} bytes, also when unpacked")
    if not stream.eof or stream.unused_data:
        raise ChatError(400, "the compressed body is cut short, or is more than one stream")
    return out


async def _read(receive: Receive) -> bytes:
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return bytes(body)


def _check_is_json(body: bytes, media: str) -> None:
    """Check that a body may be JSON; what declares itself as JSON is left to the parser."""
    name = media.partition(";")[0].strip().lower()
    is_declared = name == "" or name == "application/json" or name.endswith("+json")
    if not is_declared and body.removeprefix(BOM).lstrip()[:1] not in (b"{", b"["):
        raise ChatError(415, "expected a body of JSON (Content-Type: application/json)")


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "body": b""} if is_body else message)

    return send_head
