"""Temporal-difference learning of sentence values, in the symbols of VisVM (arXiv 2412.03704, eq. 3).

    y_i   a state: the i-th sentence of a response, together with the image
    r_i   its reward, the CLIP cosine of sentence and image; c and s are its centre and scale
    V     the value of a state:     V(y_i) ~ (r_i - c) / s + gamma * V(y_{i+1}),   V(y_T) ~ (r_T - c) / s
    F     the future of a state:    F(y_i) ~ (r_{i+1} - c) / s + gamma * F(y_{i+1}),   F(y_T) = 0
    N     the discounted number of sentences: the return of a reward of 1 per sentence

so V = (r - c) / s + gamma * F, and moving the centre to c' changes V to V - (c' - c) / s * N.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NO_STATE = -1


@dataclass(frozen=True)
class Response:
    """A response: its sentences, their raw rewards, and whether the policy ended it (``stopped``)."""

    sentences: tuple[str, ...]
    rewards: tuple[float, ...]
    stopped: bool


@dataclass(frozen=True)
class Pairs:
    """N transitions (y_i, y_{i+1}) as indices into the states of a batch.

    ``state`` [N]; ``following`` [N], NO_STATE after the last sentence; ``reward`` [N, 2]: the reward of
    the transition for V (or F), centred by c and scaled by s, and for N.
    """

    state: Tensor
    following: Tensor
    reward: Tensor

    def __len__(self) -> int:
        return len(self.state)

    def to(self, device: torch.device) -> Pairs:
        """Return the pairs on ``device``."""
        return Pairs(self.state.to(device), self.following.to(device), self.reward.to(device))


def td_target(outputs: Tensor, pairs: Pairs, *, gamma: float) -> Tensor:
    """Return r + gamma * V(next), without gradient, for both outputs [states, 2]: [N, 2]."""
    following = outputs.detach()[pairs.following.clamp_min(0)]
    bootstrap = following * (pairs.following != NO_STATE)[:, None]
    return pairs.reward.to(outputs.dtype) + gamma * bootstrap


def td_loss(outputs: Tensor, pairs: Pairs, *, gamma: float) -> Tensor:
    """Return the squared TD errors of both ``outputs`` [states, 2], each summed over the pairs: [2]."""
    _check(outputs, pairs)
    target = td_target(outputs, pairs, gamma=gamma)
    return (target - outputs[pairs.state]).square().sum(dim=0)


def _check(outputs: Tensor, pairs: Pairs) -> None:
    n = len(pairs)
    assert outputs.ndim == 2 and outputs.shape[1] == 2, outputs.shape
    assert pairs.state.shape == pairs.following.shape == (n,), "one state and one next state per pair"
    assert pairs.reward.shape == (n, 2), "each pair has its own reward"


def pair_rewards(
    response: Response, *, centre: float, scale: float, predict: str
) -> list[tuple[float, float]]:
    """Return the reward ((r - c) / s, 1) of each sentence's pair: its own for V, the next one's for F."""
    gains = [((reward - centre) / scale, 1.0) for reward in response.rewards]
    return gains if predict == "value" else [*gains[1:], (0.0, 0.0)]


def num_pairs(response: Response) -> int:
    """Count the sentences with a TD target: all, except the last one of a response cut by length."""
    return len(response.sentences) - (not response.stopped)


def discounted_returns(rewards: Sequence[tuple[float, float]], *, gamma: float) -> list[tuple[float, float]]:
    """Return the Monte Carlo returns of a whole response, G_i = r_i + gamma * G_{i+1}, of both outputs."""
    returns: list[tuple[float, float]] = []
    value = length = 0.0
    for reward, count in reversed(rewards):
        value, length = reward + gamma * value, count + gamma * length
        returns.append((value, length))
    return returns[::-1]
