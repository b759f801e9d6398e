"""Captions of twenty test images never change, whatever is renamed, moved or made faster."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from visvm.images import load
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import Request
from visvm.search import SearchConfig, make_search
from visvm.value import ValueScorer
from visvm.world import coco_export

WEIGHTS = Path(coco_export.__file__).parent / "weights"
GOLDEN = json.loads(Path(__file__).with_name("golden_captions.json").read_text())


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Return requests for the first twenty test images, with the prompts of `visvm caption`."""
    paths = coco_export.make(tmp_path_factory.mktemp("images"), split="test", count=20)
    return [Request(load(str(path)), DETAIL_PROMPTS[0]) for path in paths]


@pytest.mark.parametrize("method", list(GOLDEN))
def test_captions_are_the_committed_texts(method: str, requests: list[Request]) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(WEIGHTS / "policy"))
    scorer = ValueScorer.from_pretrained(str(WEIGHTS / "value")) if method == "visvm" else None
    captions = make_search(method, SearchConfig())(policy, scorer, requests)
    found = {
        str(int(caption.request.image.id)): hashlib.sha256(caption.text.encode()).hexdigest()[:16]
        for caption in captions
    }
    assert found == GOLDEN[method]
