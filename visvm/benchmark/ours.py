"""The same work on the shared prefix: the project's own policy, scorer and packed training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visvm.benchmark.workload import Workload
from visvm.decoder import TreeBranch
from visvm.policy import SharedPrefixPolicy
from visvm.records import Branch, DecodedImage, Question, Request
from visvm.search.scheduler import SearchContext, run_searches
from visvm.training.td import Response, td_loss
from visvm.training.text_packing import Packer, collate
from visvm.value import ValueScorer


class ForcedPolicy(SharedPrefixPolicy):
    """A policy whose sentences have the workload's lengths and whose captions end where it says."""

    def __init__(self, model: Any, processor: Any, workload: Workload, *, max_new_tokens: int) -> None:
        super().__init__(model, processor, max_new_tokens=max_new_tokens)
        self.workload = workload
        self.eos_ids = []

    def closes(self, token: int) -> bool:
        """Any token may: lengths decide."""
        return True

    def next_sentence(self, branch: TreeBranch) -> ForcedSentence:
        """Return the workload's."""
        return ForcedSentence(self.workload, len(branch.token_ids))


@dataclass(frozen=True)
class ForcedSentence:
    """A sentence of the workload's length, known once a token more is there."""

    workload: Workload
    start: int

    def length(self, tokens: Sequence[int], *, final: bool) -> int | None:
        """Return the workload's length for this place and first token."""
        length = self.workload.length(self.start, tokens[0])
        return length if len(tokens) > length else None


def search(policy: ForcedPolicy, images: Sequence[DecodedImage]) -> int:
    """A caption of each image by stepwise search, the last candidate always kept; the tokens sampled."""

    async def write(context: SearchContext, branch: Branch) -> int:
        sampled = 0
        for _ in range(policy.workload.num_sentences):
            (candidates,) = await context.propose([branch], policy.workload.temperatures)
            sampled += sum(len(candidate.token_ids) for candidate in candidates)
            (branch,) = context.commit([branch], [candidates[-1]])
        return sampled

    return sum(run_searches(policy, None, _requests(policy, images), write))


def greedy(policy: ForcedPolicy, images: Sequence[DecodedImage]) -> int:
    """A caption of ``max_new_tokens`` of each image by greedy decoding; the tokens sampled."""

    async def write(context: SearchContext, branch: Branch) -> int:
        ((caption,),) = await context.propose([branch], (0.0,), whole=True)
        return len(caption.token_ids)

    return sum(run_searches(policy, None, _requests(policy, images), write))


def _requests(policy: ForcedPolicy, images: Sequence[DecodedImage]) -> list[Request]:
    return [Request(image, policy.workload.prompts[0]) for image in images]


def rollouts(policy: ForcedPolicy, image: DecodedImage) -> int:
    """All responses to all prompts behind one encoding of the image; the tokens sampled."""
    workload = policy.workload
    temperatures = (0.0, *workload.temperatures[2 : workload.num_responses + 1])
    branches = policy.open([Request(image, prompt) for prompt in workload.prompts])
    responses = policy.propose(branches, temperatures, whole=True)
    return sum(len(one.token_ids) for row in responses for one in row)


def prefill(policy: ForcedPolicy, image: DecodedImage) -> int:
    """The image once and each prompt behind it; the tokens computed."""
    prompts = policy.workload.prompts
    branches = policy.open([Request(image, prompt) for prompt in prompts])
    assert isinstance(branches[0], TreeBranch)
    return branches[0].prefix.length + sum(len(policy.family.prompt_ids(one)) for one in prompts)


def values(
    model: Any, image: DecodedImage, sentences: Sequence[str], *, num_candidates: int
) -> list[list[float]]:
    """The values of a caption's candidates, asked a step at a time as a search does."""
    scorer = ValueScorer(model)
    steps = [tuple(sentences[i : i + num_candidates]) for i in range(0, len(sentences), num_candidates)]
    return [scorer.score([Question(image, "", (), step, (False,) * len(step))])[0] for step in steps]


def train(model: Any, image: DecodedImage, responses: Sequence[Response]) -> int:
    """Gradients of the mean TD loss of all pairs by one packed pass; the tokens behind the image."""
    model.zero_grad()
    packed, pairs = collate([Packer(model.reader).pack(responses)])
    device = model.family.device
    outputs = model(model.family.preprocess([image]), packed.to(device))
    losses = td_loss(outputs, pairs.to(device), gamma=model.config.gamma)
    (losses.sum() / len(pairs)).backward()
    return packed.tokens.numel()
