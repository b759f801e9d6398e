"""The Serve application: an ingress, the policy and its scorers, each scaled independently.

The modules of models are imported where models are loaded, so that an ingress needs no torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from fastapi import FastAPI
from ray import serve
from ray.serve import metrics
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from actors.serving.caption_stream import CaptionWriter
from actors.serving.http_app import make_app
from actors.serving.http_metrics import HttpMetrics
from actors.serving.remote_scorer import Query, RemoteScorer, ScorerReplica, Scores
from actors.serving.service import ChatService, Settings
from visvm.chat import CaptionSpec, Event
from visvm.records import Scorer
from visvm.search.draft import Needs

BATCH = 32  # queries scored in one pass
# The hash of an image is the session id of its calls: its questions go to the replica that has the image.
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
BY_IMAGE = RequestRouterConfig(request_router_class=ROUTER)  # type: ignore[arg-type]


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """Serve HTTP and fetch images; hold no model."""

    def __init__(self, policy: DeploymentHandle, settings: Settings) -> None:
        self.policy = policy.options(stream=True)
        replica = serve.get_replica_context().replica_id.unique_id
        self.service = ChatService(self._write, settings, metrics=HttpMetrics(replica))

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.service)

    async def drain(self) -> None:
        """Refuse new requests and wait for those in progress; see ``ChatService.drain``."""
        await self.service.drain()

    async def _write(self, spec: CaptionSpec, data: bytes, follow: bool) -> AsyncIterator[Event]:
        events: Any = self.policy.write.remote(spec, data, follow)
        try:
            async for event in events:
                yield event
        finally:
            events.cancel()


@serve.deployment(name="Policy")
class PolicyDeployment:
    """Write captions with the engine.

    ``scorers`` are handles, and ``local`` keywords of ``load_scorer`` for scorers in this process, both keyed
    by what a search method needs ("reward", "value", ...).
    """

    def __init__(
        self,
        policy: dict[str, Any],
        scorers: dict[str, DeploymentHandle],
        *,
        local: dict[str, dict[str, Any]],
        max_pixels: int,
        patience: float,
    ) -> None:
        """Load the policy; ``policy`` are keywords of ``load_policy``."""
        from visvm.loading import load_policy
        from visvm.scorers import load_scorer

        remote = {needs: RemoteScorer(handle) for needs, handle in scorers.items()}
        model = load_policy(**policy)
        within: Any = {
            needs: load_scorer(cast(Needs, needs), policy=model, **more) for needs, more in local.items()
        }
        self.writer = CaptionWriter(model, remote | within, max_pixels=max_pixels)
        self.patience = patience
        self.gauges = {
            name: metrics.Gauge(f"visvm_engine_{name}", description=f"{name} of the engine, in use now")
            for name in self.writer.usage()
        }

    async def write(self, spec: CaptionSpec, data: bytes, follow: bool) -> AsyncIterator[Event]:
        """Yield a request's events; see ``CaptionWriter.write``."""
        async for event in self.writer.write(spec, data, follow=follow):
            yield event

    async def usage(self) -> dict[str, int]:
        """Return what is in use; see ``CaptionWriter.usage``."""
        return self.writer.usage()

    def check_health(self) -> None:
        """Raise an error if the engine is dead or stuck; Serve then replaces this replica."""
        for name, value in self.writer.usage().items():
            self.gauges[name].set(value)
        self.writer.engine_thread.check(self.patience)


class _Scoring:
    """The base of the scorers' deployments."""

    def __init__(self, scorer: Scorer, max_images: int) -> None:
        self.replica = ScorerReplica(scorer, max_images=max_images)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)
    async def _score(self, queries: list[Query]) -> list[Scores | Exception | None]:
        """Score a batch; the next one is collected meanwhile."""
        return await asyncio.to_thread(self.replica.score, queries)

    async def score(self, query: Query) -> Scores | None:
        """Return the scores of a query's sentences, or None if this replica lacks the image."""
        answer = await self._score(query)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def known(self) -> list[str]:
        """Return the content hashes of the images that this replica has."""
        return list(self.replica.images)


@serve.deployment(name="Value", request_router_config=BY_IMAGE)
class ValueDeployment(_Scoring):
    """Score with a value model; given ``reward`` too, with the reward now and the learned future."""

    def __init__(self, value: dict[str, Any], reward: dict[str, Any] | None, *, max_images: int) -> None:
        """Load the models by keywords of the ``from_pretrained`` of ``ValueScorer`` and ``ClipScorer``."""
        from visvm.reward import ClipScorer
        from visvm.value import FutureScorer, ValueScorer

        scorer: Any = ValueScorer.from_pretrained(**value)
        if reward is not None:
            scorer = FutureScorer(ClipScorer.from_pretrained(**reward), scorer)
        super().__init__(scorer, max_images)


@serve.deployment(name="Reward", request_router_config=BY_IMAGE)
class RewardDeployment(_Scoring):
    """Score with the similarity of sentence and image."""

    def __init__(self, reward: dict[str, Any], *, max_images: int) -> None:
        """Load the reward model; ``reward`` are keywords of ``ClipScorer.from_pretrained``."""
        from visvm.reward import ClipScorer

        super().__init__(ClipScorer.from_pretrained(**reward), max_images)


@serve.deployment(name="Scorer", request_router_config=BY_IMAGE)
class OwnScorerDeployment(_Scoring):
    """Scores by a scorer of the user's own, "MODULE:NAME", imported in the replica."""

    def __init__(self, scorer: str, *, max_images: int) -> None:
        from visvm.plugins import load_scorer

        super().__init__(load_scorer(scorer), max_images)
