"""Training of heads in closed form, from states that come as a stream: TD(0) by least squares (LSTD).

With phi = (s - mean) / deviation and a bias, the weights of F and M solve

    (sum phi_i (phi_i - gamma phi_{i+1})^T + lambda n I) w = sum phi_i (r_{i+1} or 1)

over sentences that are followed by another; phi_{i+1} = 0 where the next sentence ends its caption, since
nothing follows that one (Bradtke & Barto 1996). Those of r are ridge regression over all sentences. Only sums
over the sentences are kept: [hidden + 1]^2 numbers, however many there are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visvm.training.td import Response, discounted_returns
from visvm.value.head import READS, Reads, ValueHead

logger = logging.getLogger(__name__)
MOST_HELD_OUT = 20_000  # sentences kept in memory for evaluation


@dataclass(frozen=True)
class StatedResponse:
    """A response with the states behind its sentences: for each way of reading them, [sentences, hidden]."""

    response: Response
    states: dict[Reads, Tensor]

    def whole(self) -> StatedResponse:
        """Return it without a last sentence that the limit of tokens has cut."""
        one = self.response
        if one.stopped:
            return self
        kept = Response(one.sentences[:-1], one.rewards[:-1], stopped=False)
        return StatedResponse(kept, {reads: states[:-1] for reads, states in self.states.items()})


@dataclass
class Sums:
    """The sums over sentences from which the weights for one way of reading follow; all in float64."""

    hidden: int
    gram: Tensor = field(init=False)  # sum phi phi^T of all sentences, [hidden + 1, hidden + 1]
    reward: Tensor = field(init=False)  # sum phi r, [hidden + 1]
    steps: Tensor = field(init=False)  # sum phi_i phi_i^T of sentences that are followed
    following: Tensor = field(init=False)  # sum phi_i phi_{i+1}^T, without next sentences that are the last
    future: Tensor = field(init=False)  # sum phi_i (r_{i+1}, 1), [hidden + 1, 2]

    def __post_init__(self) -> None:
        size = self.hidden + 1
        self.gram, self.steps, self.following = (
            torch.zeros(size, size, dtype=torch.float64) for _ in range(3)
        )
        self.reward, self.future = torch.zeros(size, dtype=torch.float64), torch.zeros(size, 2).double()

    def add(self, states: Tensor, response: Response) -> None:
        """Add one response with states [sentences, hidden]."""
        phi = torch.cat([states.double(), torch.ones(len(states), 1).double()], 1)
        rewards = torch.tensor(response.rewards, dtype=torch.float64)
        self.gram += phi.T @ phi
        self.reward += phi.T @ rewards
        self.steps += phi[:-1].T @ phi[:-1]
        self.future += phi[:-1].T @ torch.stack([rewards[1:], torch.ones_like(rewards[1:])], 1)
        going_on = phi[1:-1] if response.stopped else phi[1:]
        self.following += phi[: len(going_on)].T @ going_on

    def solve(self, *, gamma: float, ridge: float) -> Tensor:
        """Return the weights [hidden + 1, 3] of r, F and M on raw states."""
        scaling = self._scaling()
        gram, steps, following = (
            scaling @ one @ scaling.T for one in (self.gram, self.steps, self.following)
        )
        penalty = ridge * torch.eye(self.hidden + 1, dtype=torch.float64)
        penalty[-1, -1] = 0  # not on the bias
        reward = torch.linalg.solve(gram + gram[-1, -1] * penalty, scaling @ self.reward)
        system = steps - gamma * following + steps[-1, -1].clamp_min(1) * penalty
        future = torch.linalg.solve(system, scaling @ self.future)
        return (scaling.T @ torch.cat([reward[:, None], future], 1)).float()

    def _scaling(self) -> Tensor:
        """Return the matrix that standardises (state, 1): phi -> scaling @ phi."""
        count = self.gram[-1, -1]
        mean = self.gram[-1, :-1] / count
        deviation = (self.gram.diagonal()[:-1] / count - mean**2).clamp_min(0).sqrt()
        scale = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation, 0.0)
        scaling = torch.diag(torch.cat([scale, torch.ones(1).double()]))
        scaling[:-1, -1] = -mean * scale
        return scaling


class HeadFitter:
    """Collects the sums of both ways of reading, and rewards; keeps some images out for evaluation."""

    def __init__(self, *, gamma: float, ridge: float, held_out: float) -> None:
        self.gamma, self.ridge, self.share = gamma, ridge, held_out
        self.sums: dict[Reads, Sums] = {}
        self.held_out: list[StatedResponse] = []
        self.rewards: list[float] = []
        self.num_kept_out = 0

    def add(self, draw: float, responses: Sequence[StatedResponse]) -> None:
        """Add the responses of an image; those with ``draw`` below the share held out are kept for that."""
        usable = [one for one in map(StatedResponse.whole, responses) if one.response.sentences]
        if draw < self.share and self.num_kept_out < MOST_HELD_OUT:
            self.held_out += usable
            self.num_kept_out += sum(len(one.response.sentences) for one in usable)
            return
        for one in usable:
            self.rewards += one.response.rewards
            for reads, states in one.states.items():
                self.sums.setdefault(reads, Sums(states.shape[1])).add(states, one.response)

    def weights(self) -> dict[Reads, Tensor]:
        """Return the weights for each way of reading.

        Raises:
            ValueError: there is no sentence that is followed by another.
        """
        if not self.sums or not self.sums["prefix"].steps[-1, -1]:
            raise ValueError(
                "the rollouts hold no sentence that is followed by another: nothing can be learned"
            )
        return {reads: self.sums[reads].solve(gamma=self.gamma, ridge=self.ridge) for reads in READS}

    def evaluate(self, head: ValueHead) -> dict[str, Any] | None:
        """Return how well a head predicts rewards and returns of the images held out; None without any."""
        if self.num_kept_out < 2:
            return None
        return {reads: self._fit_of(head, reads) for reads in READS} | {"num_sentences": self.num_kept_out}

    def _fit_of(self, head: ValueHead, reads: Reads) -> dict[str, float]:
        config = head.config
        outputs = head.outputs(torch.cat([one.states[reads] for one in self.held_out]), reads)
        ended = [
            i + 1 == len(one.response.sentences) and one.response.stopped
            for one in self.held_out
            for i in range(len(one.response.sentences))
        ]
        values = head.values(outputs, torch.tensor(ended), centre=config.reward_centre).numpy()
        rewards = np.array([reward for one in self.held_out for reward in one.response.rewards])
        returns = [gain for one in self.held_out for gain, _ in self._returns(one.response, config)]
        rest = rewards - outputs[:, 0].numpy()
        return {
            "reward_explained": float(1 - rest.var() / max(rewards.var(), 1e-12)),
            "value_correlation": float(np.corrcoef(values, returns)[0, 1]),
        }

    def _returns(self, response: Response, config: Any) -> list[tuple[float, float]]:
        gains = [((reward - config.reward_centre) / config.reward_scale, 1.0) for reward in response.rewards]
        return discounted_returns(gains, gamma=config.gamma)
