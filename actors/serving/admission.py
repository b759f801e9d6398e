"""Admission to the application: keys, capacity and size of bodies, checked before anything is parsed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.serving.service import ChatService
from visvm.chat import ChatError

CHAT = "/v1/chat/completions"
OPEN = ("/", "/healthz", "/metrics", "/openapi.json")  # need no key


class AdmissionMiddleware:
    """ASGI middleware that checks keys, limits concurrent chats, and bounds bodies in size and time.

    A request without a valid key, beyond the limit or to another path is refused before its body is read.
    Only chats take places, and a body that comes in too slowly gives its place back.
    """

    def __init__(self, app: ASGIApp, *, service: ChatService) -> None:
        self.app, self.service, self.settings = app, service, service.settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
            if scope["method"] != "POST":  # no other route takes a body, so none is waited for
                await self.app(scope, replayed(b"", receive), send)
                return
            with self.service.admitted():
                body = await self._body(receive)
                await self.app(scope, replayed(body, receive), send)
        except ChatError as error:  # from here; the application answers its own errors
            await respond(error)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.settings.key_hashes and scope["path"] not in OPEN and not self._has_key(headers):
            what = "a valid API key is needed (Authorization: Bearer KEY)"
            raise ChatError(401, what, code="invalid_api_key")
        if scope["method"] == "POST" and scope["path"] != CHAT:
            is_known = scope["path"] in OPEN or scope["path"].startswith("/v1/models")
            raise ChatError(405 if is_known else 404, f"POST is served at {CHAT} only")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise ChatError(400, "Content-Length is not a number")
        if int(length[:20]) > self.settings.max_body_bytes:
            raise self._too_large()

    async def _body(self, receive: Receive) -> bytes:
        body, has_more = bytearray(), True
        seconds = min(self.settings.seconds, self.settings.body_seconds)
        try:
            async with asyncio.timeout(seconds):
                while has_more:
                    message = await receive()
                    body += message.get("body", b"")
                    has_more = message.get("more_body", False)
                    if len(body) > self.settings.max_body_bytes:
                        raise self._too_large()
        except TimeoutError:
            what = f"the request's body took more than {seconds:g} seconds to arrive"
            raise ChatError(408, what) from None
        return bytes(body)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = hash_key(key.strip())
        # All keys are compared, so that the time taken does not reveal which one matched.
        matches = [hmac.compare_digest(given, known) for known in self.settings.key_hashes]
        return scheme.lower() == b"bearer" and any(matches)

    def _too_large(self) -> ChatError:
        return ChatError(413, f"a request may have at most {self.settings.max_body_bytes} bytes")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives the body that was read, then whatever follows it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def hash_key(key: bytes) -> str:
    """Return the form in which a key is kept: its SHA-256 in hexadecimal."""
    return hashlib.sha256(key).hexdigest()


def respond(error: ChatError) -> JSONResponse:
    """Return the HTTP response for an error."""
    headers: dict[str, Any] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
