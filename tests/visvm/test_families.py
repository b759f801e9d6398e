"""Families at their published image sizes: as many image tokens, and exact over thousands of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny
from tests.visvm.test_policy import inputs
from visvm.families import Family, check_supported
from visvm.families.table import MAX_IMAGE_PIXELS
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


def test_images_are_scaled_down_to_the_limit_where_the_processor_keeps_their_size(tmp_path: Any) -> None:
    folder = str(tiny.save("qwen2_vl", tmp_path, geometry=tiny.REAL_NEXT))
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    large = tiny.image(0, width=4000, height=4000)
    family = Family(model.model, processor)
    assert family.inputs(large, "Describe.")["pixel_values"].shape[0] * 14**2 <= MAX_IMAGE_PIXELS
    small = Family(model.model, processor, max_pixels=28 * 28 * 16)
    assert small.inputs(large, "Describe.")["pixel_values"].shape[0] <= 4 * 16


def test_code_that_comes_with_a_model_never_runs(tmp_path: Any) -> None:
    """A directory may name classes of its own (auto_map): a known type is read without, others refused."""
    folder, mark = tiny.save("llava", tmp_path / "model"), tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: ...\n")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": dict.fromkeys(("AutoConfig", "AutoModel"), "own.C")}
    path.write_text(json.dumps(config))
    assert check_supported(str(folder)) == "llava"
    SharedPrefixPolicy.from_pretrained(str(folder))
    path.write_text(json.dumps(config | {"model_type": "own"}))
    with pytest.raises(ValueError, match="code of its own"):
        check_supported(str(folder))
    assert not mark.exists()
