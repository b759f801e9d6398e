"""The endpoint's captioner with heads on the policy's own states: no scorer elsewhere is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.serving.caption_stream import CaptionWriter
from tests.visvm.value.test_head import random_head
from visvm.chat import CaptionResult, CaptionSpec, ChatError
from visvm.images import decode
from visvm.models import WORLD
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request
from visvm.scorers import JudgedScorer
from visvm.search import SearchConfig, make_search
from visvm.value.head_scorer import HeadScorer
from visvm.world import coco_export
from visvm.world.scenes import layout

PROMPT = "Describe the following image."


async def events(captioner: CaptionWriter, spec: CaptionSpec, data: bytes) -> list[Any]:
    return [event async for event in captioner.write(spec, data, follow=False)]


@pytest.mark.parametrize(
    ("method", "options"),
    [("visvm", {}), ("best_of_n", {"samples_per_temperature": 1}), ("visvm", {"drop_below": -100.0})],
)
def test_a_caption_of_the_endpoint_is_that_of_the_library(method: str, options: dict[str, Any]) -> None:
    data = coco_export.png(layout("test", 2))
    config = SearchConfig(max_sentences=2, **options)
    spec = CaptionSpec("", PROMPT, method, config, (0,), 64, False)
    texts = []
    for is_served in (True, False):
        policy = SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"), max_new_tokens=64)
        head = random_head(policy)
        value, reward = HeadScorer(head, policy), HeadScorer(head, policy, output="reward")
        if is_served:
            captioner = CaptionWriter(policy, {"value": value, "reward": reward}, max_pixels=10**6)
            (result,) = asyncio.run(events(captioner, spec, data))
            captioner.engine_thread.close()
            assert not isinstance(result, ChatError), result
            assert isinstance(result, CaptionResult)
            texts.append(result.text)
            continue
        asked = Request(decode(data, id="image", uri="the image"), PROMPT, 0)
        scorer = reward if method == "best_of_n" else JudgedScorer(value, reward)
        texts.append(make_search(method, config)(policy, scorer, [asked])[0].text)
    assert texts[0] == texts[1] != ""
