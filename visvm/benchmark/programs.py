"""Parts and their programs: what ``visvm benchmark`` runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from visvm.benchmark import ours, peer, published
from visvm.benchmark.parts import Part, Setup
from visvm.benchmark.random_models import build, image
from visvm.benchmark.workload import Workload
from visvm.families import Family
from visvm.training.td import Response
from visvm.value import VisionValueModel
from visvm.value.model import VisionValueConfig

Run = Callable[[], int]
NUM_RESPONSES: dict[Part, int] = {"training-10": 2, "training-42": 6}  # of 5 and of 7 sentences
GAMMA = 0.9


def load(part: Part, name: str, setup: Setup) -> Run:
    """A program with its model loaded: call it to do the work once; it returns the tokens it took.

    Raises:
        KeyError: there is no such part or program.
    """
    model, processor = build(setup.size, device=setup.device, dtype=getattr(torch, setup.dtype))
    if name == "peer" and setup.peer:
        shown = [image(setup.size, i) for i in range(setup.workload.num_images)]
        write = peer.greedy if part == "peer-greedy" else peer.search
        run: Run = peer.load(setup.peer, processor.tokenizer, shown, setup.workload, write)
        return run
    if part in ("peer-search", "peer-greedy"):
        part, name = "search", "ours" if part == "peer-search" else "greedy"
    if part in ("search", "rollouts", "prefill"):
        return _of_policy(part, name, (model, processor), setup)
    return _of_value(part, name, value_model(model, processor), setup)


def value_model(model: Any, processor: Any) -> VisionValueModel:
    """A value model on the policy's weights, with a random head."""
    config = VisionValueConfig(base_config=model.config.to_dict(), gamma=GAMMA)
    value = VisionValueModel(config, base=model.model).with_processor(processor).eval()
    torch.nn.init.normal_(value.head.weight, std=0.02)
    return value.to(model.device)


def _of_policy(part: Part, name: str, policy: tuple[Any, Any], setup: Setup) -> Run:
    model, processor = policy
    workload = setup.workload
    shown = [image(setup.size, i) for i in range(workload.num_images)]
    if name in ("published", "batched", "generate"):
        given = (model, Family(model.model, processor))
        if name == "generate":
            return partial(published.greedy, *given, shown, workload)
        if part == "search":
            return partial(published.search, *given, shown, workload, batched=name == "batched")
        works = {"rollouts": published.rollouts, "prefill": published.prefill}
        return partial(works[part], *given, shown[0], workload)
    whole = workload.response_length if part == "rollouts" else workload.caption_length
    room = 4 * whole if part == "search" and name == "ours" else whole  # its sentences end by themselves
    forced = ours.ForcedPolicy(model, processor, workload, max_new_tokens=room)
    if part == "search":
        return partial(ours.greedy if name == "greedy" else ours.search, forced, shown)
    return partial({"rollouts": ours.rollouts, "prefill": ours.prefill}[part], forced, shown[0])


def _of_value(part: Part, name: str, model: Any, setup: Setup) -> Run:
    shown, workload = image(setup.size), setup.workload
    if part == "scoring":
        num_candidates = len(workload.temperatures)
        sentences = workload.sentences(workload.num_sentences * num_candidates, seed=0)
        if name == "published":
            return partial(_score_published, model, shown, sentences)
        return partial(_score_ours, model, shown, sentences, num_candidates)
    responses = make_responses(part, workload)
    if name == "published":
        return partial(published.train, model, shown, pairs_of(responses), GAMMA)
    return partial(ours.train, model, shown, responses)


def make_responses(part: Part, workload: Workload) -> list[Response]:
    """The responses whose sentences are ``part``'s TD pairs."""
    count = NUM_RESPONSES[part]
    length = int(part.split("-")[1]) // count
    texts = workload.sentences(count * length, seed=1)
    return [
        Response(texts[i * length : (i + 1) * length], (0.0,) * length, stopped=False) for i in range(count)
    ]


def pairs_of(responses: list[Response]) -> list[tuple[str, str | None]]:
    """(sentence, the next or None) of all responses."""
    return [pair for one in responses for pair in zip(one.sentences, (*one.sentences[1:], None), strict=True)]


@torch.inference_mode()
def _score_published(model: Any, shown: Any, sentences: tuple[str, ...]) -> int:
    return published.values(model, shown, sentences)[1]


def _score_ours(model: Any, shown: Any, sentences: tuple[str, ...], num_candidates: int) -> int:
    ours.values(model, shown, sentences, num_candidates=num_candidates)
    return sum(len(model.reader.sentence_ids(text, False)) for text in sentences)
