"""Families at their published image sizes: as many image tokens, and exact over thousands of them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny
from tests.visvm.test_policy import inputs
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request

SIZES = ((640, 480), (640, 427), (640, 640))
NEXT, QWEN = (2340, 2144, 2928), (391, 345, 529)
FAMILIES = {
    "llava_next": (tiny.REAL_NEXT, NEXT),
    "llava_next_vicuna": (tiny.REAL_NEXT, NEXT),
    "llava_onevision": (tiny.REAL_ONEVISION, (2929, 2709, 3699)),
    "qwen2_vl": (tiny.REAL_NEXT, QWEN),
    "qwen2_5_vl": (tiny.REAL_NEXT, QWEN),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_real_images_have_the_published_tokens_and_greedy_equals_generate(name: str, tmp_path: Any) -> None:
    geometry, expected = FAMILIES[name]
    folder = str(tiny.save(name, tmp_path, geometry=geometry))
    policy = SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=6)
    images = [tiny.image(i, width=w, height=h) for i, (w, h) in enumerate(SIZES)]
    counts = [
        policy.family.preprocess([one])[0]["input_ids"] == policy.family.image_token_id for one in images
    ]
    assert tuple(int(count.sum()) for count in counts) == expected
    asked = [Request(one, "Describe the image.") for one in images[:2]]
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    for request, (candidate,) in zip(
        asked, policy.propose(policy.open(asked), [0.0], whole=True), strict=True
    ):
        given = inputs((model, processor), request)
        out = model.generate(**given, do_sample=False, max_new_tokens=6, min_new_tokens=1)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]
