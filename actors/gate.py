"""What stands before the application: keys and the size of bodies, checked before anything is parsed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visvm.chat import ChatError


class Gate:
    """ASGI middleware: /v1 needs one of the keys, if there are any; no body has more than ``max_bytes``.

    ``key_hashes`` are hex SHA-256 digests; digests are compared in constant time.
    """

    def __init__(self, app: ASGIApp, *, key_hashes: Sequence[str], max_bytes: int) -> None:
        self.app, self.key_hashes, self.max_bytes = app, tuple(key_hashes), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if refused := self._refusal(scope["path"], headers):
            await respond(refused)(scope, receive, send)
            return
        body = await _read(receive, self.max_bytes)
        if body is None:
            await respond(self._too_large())(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> ChatError | None:
        if path.startswith("/v1/") and self.key_hashes and not self._has_key(headers):
            return ChatError(
                401, "a valid API key is needed (Authorization: Bearer KEY)", code="invalid_api_key"
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            return ChatError(400, "Content-Length is no number")
        return self._too_large() if int(length[:20]) > self.max_bytes else None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = hash_key(key.strip())
        # All are compared, so that the time does not tell which was alike.
        matches = [hmac.compare_digest(given, known) for known in self.key_hashes]
        return scheme.lower() == b"bearer" and any(matches)

    def _too_large(self) -> ChatError:
        return ChatError(413, f"a request may have at most {self.max_bytes} bytes")


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """A request's whole body; None as soon as it has more than ``max_bytes``."""
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > max_bytes:
            return None
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives the body that was read, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def hash_key(key: bytes) -> str:
    """How a key is kept: its SHA-256, in hex."""
    return hashlib.sha256(key).hexdigest()


def respond(error: ChatError) -> JSONResponse:
    """The response of an error."""
    headers: dict[str, Any] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
