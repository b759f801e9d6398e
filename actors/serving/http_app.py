"""The HTTP application: OpenAI's chat completions, the list of models, health, metrics and the page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from actors.serving import page
from actors.serving.admission import AdmissionMiddleware, respond
from actors.serving.http_metrics import MetricsMiddleware
from actors.serving.normalize import NormalizeMiddleware
from actors.serving.service import ChatService
from visvm.chat import (
    DONE,
    CaptionResult,
    CaptionSpec,
    ChatError,
    ChatRequest,
    Reply,
    Step,
    find_model,
    invalid,
    model_list,
    sse,
)

Row = dict[str, Any]
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request cannot be served as it is"},
    401: {"description": "a valid API key is needed"},
    404: {"description": "no such model"},
    408: {"description": "the request's body took too long to arrive"},
    413: {"description": "the request or its image is too large"},
    415: {"description": "the body is not JSON, or is compressed in an unknown way"},
    503: {"description": "too many requests, or the models are being replaced: try again later"},
    504: {"description": "not done before the deadline"},
}


def make_app(service: ChatService) -> FastAPI:
    """Return the application that serves ``service``."""
    settings = service.settings
    app = FastAPI(title="visvm", docs_url=None, redoc_url=None)
    # The one added last is the outermost: pages of other origins see refusals too.
    app.add_middleware(NormalizeMiddleware, max_bytes=settings.max_body_bytes)  # type: ignore[arg-type]
    app.add_middleware(AdmissionMiddleware, service=service)  # type: ignore[arg-type]
    app.add_middleware(MetricsMiddleware, metrics=service.metrics)  # type: ignore[arg-type]
    if settings.cors_origins:
        origins = list(settings.cors_origins)
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    app.add_exception_handler(ChatError, _on_chat_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: ChatService) -> None:
    @app.post("/v1/chat/completions", responses=ERRORS, response_model=None)
    async def chat(request: ChatRequest) -> Response:
        """Describe an image, by search with the model policy+search."""
        return await complete(service, request)

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> dict[str, Any]:
        """List the models, and the methods of policy+search with the default first."""
        return model_list(service.settings.methods)

    @app.get("/v1/models/{name:path}", responses={401: ERRORS[401], 404: ERRORS[404]})
    async def model(name: str) -> dict[str, Any]:
        """Describe one model."""
        return find_model(name, service.settings.methods)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Report whether this endpoint takes requests."""
        if not service.is_open:
            raise ChatError(503, "this server is being stopped", code="stopping")
        return {"status": "ok"}

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        """Report counts of requests, captions, sentences and tokens in Prometheus's format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", response_model=None, include_in_schema=False)
    async def index() -> Response:
        settings = service.settings
        text = page.html(settings.policy, is_world=settings.is_world)
        return HTMLResponse(text, headers=page.headers())


async def complete(service: ChatService, request: ChatRequest) -> Response:
    """Return the response to a chat request, as JSON or as a stream.

    Raises:
        ChatError: the request failed before anything was sent.
    """
    spec = service.read(request)
    reply = Reply(request.model, dict(spec.calibration) if spec.calibration else None)
    if not request.stream:
        async with aclosing(service.events(spec, follow=False)) as events:
            captions = [event async for event in events if isinstance(event, CaptionResult)]
        captions.sort(key=lambda caption: caption.index)
        return JSONResponse(reply.completion(captions, trace=spec.trace))
    usage = bool(request.stream_options and request.stream_options.include_usage)
    chunks = stream(service, spec, reply, usage=usage)
    first = await anext(chunks)  # an error before the first chunk still gets an HTTP status
    return StreamingResponse(_joined(first, chunks), media_type="text/event-stream", headers=STREAM_HEADERS)


async def stream(
    service: ChatService, spec: CaptionSpec, reply: Reply, *, usage: bool
) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events: for each caption an opening, its sentences and an end; an error is the last.

    Raises:
        ChatError: the request failed before the first event.
    """
    captions: list[CaptionResult] = []
    told: dict[int, int] = {}
    try:
        async with aclosing(service.events(spec, follow=True)) as events:
            async for event in events:
                if event.index not in told:
                    told[event.index] = 0
                    yield sse(reply.first(event.index))
                for chunk in _chunks(event, told, reply, trace=spec.trace):
                    yield sse(chunk)
                captions += [event] if isinstance(event, CaptionResult) else []
    except ChatError as error:
        if not told:
            raise
        yield sse(error.body())
        return
    if usage:
        yield sse(reply.usage(captions))
    yield DONE


def _chunks(event: Step | CaptionResult, told: dict[int, int], reply: Reply, *, trace: bool) -> Iterator[Row]:
    """Yield the chunks of an event; ``told`` counts the sentences sent of each caption."""
    if isinstance(event, Step):
        told[event.index] += 1
        if event.text or event.step:
            yield reply.sentence(event.index, event.text, event.step)
        return
    # Nothing was sent yet of a caption that was chosen as a whole.
    for sentence in () if told[event.index] else event.sentences:
        yield reply.sentence(event.index, sentence)
    yield reply.last(event, trace=trace)


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for chunk in rest:
            yield chunk


async def _on_chat_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ChatError)
    return respond(error)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return respond(invalid(error.errors()))


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = respond(ChatError(error.status_code, str(error.detail)))
    response.headers.update(error.headers or {})  # Allow, of a 405
    return response


async def _on_bug(_: Request, error: Exception) -> Response:
    return respond(ChatError(500, f"internal error: {type(error).__name__}"))
