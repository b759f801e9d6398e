"""The same work on the shared prefix: the project's own policy, scorer and packed training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visvm.benchmark.workload import Workload
from visvm.decoder import TreeBranch
from visvm.policy import SharedPrefixPolicy
from visvm.records import Branch, Picture, Question, Request
from visvm.search.flight import Desk, fly
from visvm.training.packing import Packer, collate
from visvm.training.td import Response, td_loss
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

    def sentence_length(self, branch: TreeBranch, tokens: Sequence[int], *, final: bool) -> int | None:
        """The workload's, once a token more is there."""
        length = self.workload.length(len(branch.token_ids), tokens[0])
        return length if len(tokens) > length else None


def search(policy: ForcedPolicy, pictures: Sequence[Picture]) -> int:
    """A caption of each picture by stepwise search, the last candidate always kept; the tokens sampled."""

    async def write(desk: Desk, branch: Branch) -> int:
        sampled = 0
        for _ in range(policy.workload.num_sentences):
            (candidates,) = await desk.propose([branch], policy.workload.temperatures)
            sampled += sum(len(candidate.token_ids) for candidate in candidates)
            (branch,) = desk.commit([branch], [candidates[-1]])
        return sampled

    return sum(fly(policy, None, _requests(policy, pictures), write))


def greedy(policy: ForcedPolicy, pictures: Sequence[Picture]) -> int:
    """A caption of ``max_new_tokens`` of each picture by greedy decoding; the tokens sampled."""

    async def write(desk: Desk, branch: Branch) -> int:
        ((caption,),) = await desk.propose([branch], (0.0,), whole=True)
        return len(caption.token_ids)

    return sum(fly(policy, None, _requests(policy, pictures), write))


def _requests(policy: ForcedPolicy, pictures: Sequence[Picture]) -> list[Request]:
    return [Request(picture, policy.workload.prompts[0]) for picture in pictures]


def rollouts(policy: ForcedPolicy, picture: Picture) -> int:
    """All responses to all prompts behind one encoding of the picture; the tokens sampled."""
    workload = policy.workload
    temperatures = (0.0, *workload.temperatures[2 : workload.num_responses + 1])
    branches = policy.open([Request(picture, prompt) for prompt in workload.prompts])
    responses = policy.propose(branches, temperatures, whole=True)
    return sum(len(one.token_ids) for row in responses for one in row)


def prefill(policy: ForcedPolicy, picture: Picture) -> int:
    """The picture once and each prompt behind it; the tokens computed."""
    prompts = policy.workload.prompts
    branches = policy.open([Request(picture, prompt) for prompt in prompts])
    assert isinstance(branches[0], TreeBranch)
    return branches[0].prefix.length + sum(len(policy.family.prompt_ids(one)) for one in prompts)


def values(
    model: Any, picture: Picture, sentences: Sequence[str], *, num_candidates: int
) -> list[list[float]]:
    """The values of a caption's candidates, asked a step at a time as a search does."""
    scorer = ValueScorer(model)
    steps = [tuple(sentences[i : i + num_candidates]) for i in range(0, len(sentences), num_candidates)]
    return [scorer.score([Question(picture, "", (), step, (False,) * len(step))])[0] for step in steps]


def train(model: Any, picture: Picture, responses: Sequence[Response]) -> int:
    """Gradients of the mean TD loss of all pairs by one packed pass; the tokens behind the picture."""
    model.zero_grad()
    packed, pairs = collate([Packer(model.reader).pack(responses)])
    device = model.family.device
    outputs = model(model.family.preprocess([picture]), packed.to(device))
    losses = td_loss(outputs, pairs.to(device), gamma=model.config.gamma)
    (losses.sum() / len(pairs)).backward()
    return packed.tokens.numel()
