"""Checks that a world is fit for experiments, run before a value model is trained on it.

(a) CLIP tells objects that are present from absent ones that are typical of the scene; (b) greedy decoding
hallucinates about as often as large models do; (c) look-ahead with exact rewards beats the exact reward of
the next sentence alone, so that there is something for a value model to learn.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from visvm.images import decode
from visvm.metrics import evaluate
from visvm.metrics.coco import image_key
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import prompt_for
from visvm.records import Caption, DecodedImage, Policy, Request, Search
from visvm.reward import ClipScorer
from visvm.search import BestOfN, Decode, Oracle, Stepwise
from visvm.world import writer
from visvm.world.coco_export import file_name
from visvm.world.exact import ExactScorer
from visvm.world.rendering import image
from visvm.world.scenes import Layout, layout, layout_of

BATCH = 32
CENTRES = (0.3, 0.5)  # reward centres of the oracle; a higher one ends captions sooner


def run(
    models: str | Path,
    split: str = "validation",
    *,
    num_pairs: int = 1000,
    num_greedy: int = 500,
    num_search: int = 100,
) -> dict[str, Any]:
    """Run all checks of ``models``/policy and ``models``/clip on images of ``split``; return JSON data."""
    scorer = ClipScorer.from_pretrained(str(Path(models) / "clip"))
    policy = SharedPrefixPolicy.from_pretrained(str(Path(models) / "policy"))
    pairs, plain, searched = (
        [layout(split, index) for index in range(count)] for count in (num_pairs, num_greedy, num_search)
    )
    return {
        "split": split,
        "clip": {"present_above_absent": pair_accuracy(scorer, pairs)} | reward_by_kind(scorer, pairs),
        "greedy": figures({"greedy": search(Decode(), policy, None, plain)})["rows"][0],
        "look_ahead": look_ahead(policy, scorer, searched),
    }


def pair_accuracy(scorer: ClipScorer, layouts: Sequence[Layout]) -> float:
    """Return the share of images where naming a present object scores higher than naming an absent one."""
    rng = random.Random(0)
    pairs = [(_claim(rng.choice(one.names)), _claim(rng.choice(one.absent))) for one in layouts]
    scores = scorer.similarities([render_image(one) for one in layouts], pairs)
    return round(fmean(present > absent for present, absent in scores), 4)


def reward_by_kind(scorer: ClipScorer, layouts: Sequence[Layout]) -> dict[str, float]:
    """Return the mean reward of the writer's sentences by kind, separately for true and false ones."""
    captions = [writer.caption(one, random.Random(one.index)) for one in layouts]
    texts = [[sentence.text for sentence in caption] for caption in captions]
    scores = scorer.similarities([render_image(one) for one in layouts], texts)
    groups: dict[str, list[float]] = {}
    for one, caption, rewards in zip(layouts, captions, scores, strict=True):
        for sentence, reward in zip(caption, rewards, strict=True):
            truth = "true" if set(sentence.names) <= set(one.names) else "false"
            groups.setdefault(f"reward_{sentence.kind}_{truth}", []).append(reward)
    return {name: round(fmean(values), 3) for name, values in sorted(groups.items())}


def look_ahead(policy: Policy, scorer: ClipScorer, layouts: Sequence[Layout]) -> dict[str, Any]:
    """Evaluate each search on the same images, with intervals and paired differences."""
    exact = ExactScorer()
    captions = {
        "greedy": search(Decode(), policy, None, layouts),
        "prm": search(Stepwise(), policy, scorer, layouts),
        "best_of_n": search(BestOfN(), policy, scorer, layouts),
        "prm_exact": search(Stepwise(), policy, exact, layouts),
    }
    for centre in CENTRES:
        captions[f"oracle_exact_{centre}"] = search(Oracle(centre=centre), policy, exact, layouts)
    return figures(captions)


def search(method: Search, policy: Policy, scorer: Any, layouts: Sequence[Layout]) -> list[Caption]:
    """Caption the images of ``layouts``, BATCH at a time."""
    requests = [request(one) for one in layouts]
    parts = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
    return [caption for part in parts for caption in method(policy, scorer, part)]


def figures(captions: Mapping[str, Sequence[Caption]]) -> dict[str, Any]:
    """Evaluate captions of the world's images against their layouts; see ``metrics.evaluate``."""
    ids = {caption.request.image.id for group in captions.values() for caption in group}
    truth = {image_key(name): frozenset(layout_of(int(name)).names) for name in ids}
    rows = {method: [_row(caption) for caption in group] for method, group in captions.items()}
    return evaluate(rows, truth)


def request(one: Layout) -> Request:
    """Return the request for a caption of one image, with the prompt drawn by its id."""
    shown = render_image(one)
    return Request(shown, prompt_for(shown.id))


def render_image(one: Layout) -> DecodedImage:
    """Return the image as it would be decoded from its PNG file."""
    stream = io.BytesIO()
    image(one).save(stream, format="PNG")
    name = file_name(one)
    return decode(stream.getvalue(), id=name.removesuffix(".png"), uri=name)


def _claim(name: str) -> str:
    return f"There is also {writer.a(name)} nearby."


def _row(caption: Caption) -> dict[str, Any]:
    return {
        "image_id": caption.request.image.id,
        "caption": caption.text,
        "num_generated_tokens": caption.cost.num_generated_tokens,
        "num_value_calls": caption.cost.num_value_calls,
        "seconds": caption.cost.seconds,
    }
