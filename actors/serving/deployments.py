"""The Serve application: an ingress, the policy, and its scorers, each scaled by itself.

Models' modules are imported where they are loaded: an ingress does without torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import metrics
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from actors.serving.caption_stream import Captioner
from actors.serving.http_app import make_app
from actors.serving.remote_scorer import Query, RemoteScorer, ScorerReplica, Scores
from actors.serving.service import ChatService, Settings
from visvm.chat import CaptionSpec, Event
from visvm.records import Scorer

BATCH = 32  # queries that are scored in one pass
# An image's questions go to the replica that has it, by its content (the session id of a call).
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
BY_IMAGE = RequestRouterConfig(request_router_class=ROUTER)  # type: ignore[arg-type]


@serve.deployment(name="Ingress")
@serve.ingress()
class Ingress:
    """Speaks HTTP; fetches images; holds no model."""

    def __init__(self, policy: DeploymentHandle, settings: Settings) -> None:
        self.policy = policy.options(stream=True)
        self.service = ChatService(self._write, settings)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self.service)

    async def drain(self) -> None:
        """As ``ChatService.drain``."""
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
    """Writes captions over the engine; ``scorers`` are handles by what a search method needs."""

    def __init__(
        self,
        policy: dict[str, Any],
        scorers: dict[str, DeploymentHandle],
        *,
        max_pixels: int,
        patience: float,
    ) -> None:
        """``policy`` are keywords of ``SharedPrefixPolicy.from_pretrained``."""
        from visvm.policy import SharedPrefixPolicy

        remote = {needs: RemoteScorer(handle) for needs, handle in scorers.items()}
        model = SharedPrefixPolicy.from_pretrained(**policy)
        self.captioner = Captioner(model, remote, max_pixels=max_pixels)
        self.patience = patience
        self.gauges = {
            name: metrics.Gauge(f"visvm_engine_{name}", description=f"{name} of the engine, in use now")
            for name in self.captioner.usage()
        }

    async def write(self, spec: CaptionSpec, data: bytes, follow: bool) -> AsyncIterator[Event]:
        """As ``Captioner.write``."""
        async for event in self.captioner.write(spec, data, follow=follow):
            yield event

    async def usage(self) -> dict[str, int]:
        """As ``Captioner.usage``."""
        return self.captioner.usage()

    def check_health(self) -> None:
        """Raise if the engine is dead or stuck; Serve then replaces this replica."""
        for name, value in self.captioner.usage().items():
            self.gauges[name].set(value)
        self.captioner.engine_thread.check(self.patience)


class _Scoring:
    """What the deployments of scorers share."""

    def __init__(self, scorer: Scorer, max_images: int) -> None:
        self.replica = ScorerReplica(scorer, max_images=max_images)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)
    async def _score(self, queries: list[Query]) -> list[Scores | Exception | None]:
        """While one batch is scored, the next one gathers."""
        return await asyncio.to_thread(self.replica.score, queries)

    async def score(self, query: Query) -> Scores | None:
        """The scores of a query's sentences; None if its image is needed for that."""
        answer = await self._score(query)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def known(self) -> list[str]:
        """The content hashes of the images that this replica has."""
        return list(self.replica.images)


@serve.deployment(name="Value", request_router_config=BY_IMAGE)
class ValueDeployment(_Scoring):
    """Scores by a value model; with ``reward`` by the reward now and the learned future."""

    def __init__(self, value: dict[str, Any], reward: dict[str, Any] | None, *, max_images: int) -> None:
        """Keywords of the ``from_pretrained`` of ``ValueScorer`` and ``ClipScorer``."""
        from visvm.reward import ClipScorer
        from visvm.value import FutureScorer, ValueScorer

        scorer: Any = ValueScorer.from_pretrained(**value)
        if reward is not None:
            scorer = FutureScorer(ClipScorer.from_pretrained(**reward), scorer)
        super().__init__(scorer, max_images)


@serve.deployment(name="Reward", request_router_config=BY_IMAGE)
class RewardDeployment(_Scoring):
    """Scores by the similarity of sentence and image."""

    def __init__(self, reward: dict[str, Any], *, max_images: int) -> None:
        """``reward`` are keywords of ``ClipScorer.from_pretrained``."""
        from visvm.reward import ClipScorer

        super().__init__(ClipScorer.from_pretrained(**reward), max_images)


@serve.deployment(name="Scorer", request_router_config=BY_IMAGE)
class OwnScorerDeployment(_Scoring):
    """Scores by a scorer of the user's own, "MODULE:NAME", imported in the replica."""

    def __init__(self, scorer: str, *, max_images: int) -> None:
        from visvm.plugins import load_scorer

        super().__init__(load_scorer(scorer), max_images)
