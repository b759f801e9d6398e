"""Metrics of the endpoint in Prometheus's format; they tell nothing of the content of requests."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from visvm.chat import CaptionResult

CLIENT_LEFT = 499  # nginx's status for a client that closed the connection
COUNTED = "/v1/chat/completions"
BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class HttpMetrics:
    """The metrics of one replica, each with its name: a scrape reaches any of them."""

    def __init__(self, replica: str = "") -> None:
        self.registry, self.replica = CollectorRegistry(), replica
        self.requests = self._counter(
            "requests", "Chat requests by HTTP status; 499: the client left.", ["status"]
        )
        self.captions = self._counter("captions", "Captions written, by method.", ["method"])
        self.sentences = self._counter("sentences", "Sentences of those captions.", ["method"])
        self.tokens = self._counter("generated_tokens", "Tokens sampled for them.", ["method"])
        self.value_calls = self._counter("value_calls", "Sentences scored for them.", ["method"])
        self.in_flight = Gauge(
            "visvm_requests_in_flight", "Chat requests being served.", ["replica"], registry=self.registry
        ).labels(replica)
        self.seconds = Histogram(
            "visvm_request_seconds",
            "Seconds from a chat request to the end of its response.",
            ["replica"],
            registry=self.registry,
            buckets=BUCKETS,
        ).labels(replica)

    def _counter(self, name: str, what: str, labels: Sequence[str]) -> Counter:
        return Counter(f"visvm_{name}", what, [*labels, "replica"], registry=self.registry)

    def add(self, caption: CaptionResult) -> None:
        """Count a caption."""
        labels = (caption.method, self.replica)
        self.captions.labels(*labels).inc()
        self.sentences.labels(*labels).inc(len(caption.sentences))
        self.tokens.labels(*labels).inc(caption.cost["num_generated_tokens"])
        self.value_calls.labels(*labels).inc(caption.cost["num_value_calls"])

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class MetricsMiddleware:
    """ASGI middleware that counts chat requests by HTTP status and measures their duration."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and count it."""
        if scope["type"] != "http" or scope["path"] != COUNTED:
            await self.app(scope, receive, send)
            return
        status, started, is_done = CLIENT_LEFT, time.perf_counter(), False

        async def watch(message: Message) -> None:
            nonlocal status, is_done
            status = message.get("status", status)
            is_done = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            self.metrics.requests.labels(status if is_done else CLIENT_LEFT, self.metrics.replica).inc()
            self.metrics.seconds.observe(time.perf_counter() - started)
