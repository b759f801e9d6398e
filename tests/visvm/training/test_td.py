"""TD(0): the targets of every case, by hand and against plain Monte Carlo returns."""

from __future__ import annotations

import pytest
import torch

from visvm.config import load
from visvm.training.config import TDConfig
from visvm.training.td import (
    NO_STATE,
    Pairs,
    Response,
    discounted_returns,
    num_pairs,
    pair_rewards,
    td_loss,
    td_target,
)

GAMMA = 0.9
RESPONSE = Response(("A dog.", "A cat.", "The end."), (0.3, 0.1, 0.2), stopped=True)


def pairs_of(response: Response, predict: str = "value", centre: float = 0.0, scale: float = 1.0) -> Pairs:
    """Return the pairs of one response whose states are 0, 1, 2, ..."""
    num = num_pairs(response)
    gains = pair_rewards(response, centre=centre, scale=scale, predict=predict)[:num]
    following = [i + 1 if i + 1 < len(response.sentences) else NO_STATE for i in range(num)]
    return Pairs(torch.arange(num), torch.tensor(following), torch.tensor(gains))


def solve(pairs: Pairs, num_states: int) -> torch.Tensor:
    """Return values [states, 2] learnt by gradient descent on the TD loss."""
    values = torch.zeros(num_states, 2, requires_grad=True)
    for _ in range(400):
        (gradient,) = torch.autograd.grad(td_loss(values, pairs, gamma=GAMMA).sum(), values)
        values = (values - 0.4 * gradient).detach().requires_grad_()
    return values.detach()


def test_target_is_reward_plus_discounted_next_value_and_the_reward_alone_at_the_end() -> None:
    outputs = torch.tensor([[9.0, 9.0], [2.0, 3.0], [-1.0, 1.0]])
    target = td_target(outputs, pairs_of(RESPONSE), gamma=GAMMA)
    expected = [[0.3 + 0.9 * 2, 1 + 0.9 * 3], [0.1 - 0.9, 1 + 0.9], [0.2, 1.0]]
    torch.testing.assert_close(target, torch.tensor(expected))


def test_loss_is_the_sum_of_squared_errors_of_each_output() -> None:
    outputs = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    loss = td_loss(outputs, pairs_of(RESPONSE), gamma=GAMMA)
    torch.testing.assert_close(loss, torch.tensor([0.7**2 + 0.1**2 + 0.2**2, 0 + 1 + 1.0]))


def test_each_sample_has_its_own_reward() -> None:
    """Defect 1 of the published code: [B] + [B, 1] trained every sample towards the batch mean."""
    outputs = torch.zeros(3, 2)
    before = td_target(outputs, pairs_of(RESPONSE), gamma=GAMMA)
    changed = Response(RESPONSE.sentences, (0.3, 0.7, 0.2), stopped=True)
    after = td_target(outputs, pairs_of(changed), gamma=GAMMA)
    assert (before != after).any(dim=1).tolist() == [False, True, False]
    misshapen = Pairs(torch.arange(3), torch.tensor([1, 2, -1]), torch.zeros(3, 1))
    with pytest.raises(AssertionError, match="own reward"):
        td_loss(outputs, misshapen, gamma=GAMMA)


def test_no_gradient_flows_through_the_target() -> None:
    outputs = torch.randn(3, 2, requires_grad=True)
    assert not td_target(outputs, pairs_of(RESPONSE), gamma=GAMMA).requires_grad


def test_a_response_cut_by_length_has_no_target_for_its_last_sentence() -> None:
    cut = Response(RESPONSE.sentences, RESPONSE.rewards, stopped=False)
    assert num_pairs(cut) == 2
    assert pairs_of(cut).following.tolist() == [1, 2]


@pytest.mark.parametrize("predict", ["value", "future"])
def test_td_converges_to_the_monte_carlo_return(predict: str) -> None:
    gains = pair_rewards(RESPONSE, centre=0.2, scale=0.1, predict=predict)
    returns = torch.tensor(discounted_returns(gains, gamma=GAMMA))
    learnt = solve(pairs_of(RESPONSE, predict, 0.2, 0.1), 3)
    torch.testing.assert_close(learnt, returns, atol=1e-4, rtol=0)


def test_value_is_reward_plus_discounted_future() -> None:
    value = discounted_returns(pair_rewards(RESPONSE, centre=0.2, scale=0.1, predict="value"), gamma=GAMMA)
    future = discounted_returns(pair_rewards(RESPONSE, centre=0.2, scale=0.1, predict="future"), gamma=GAMMA)
    for (v, n), (f, m), reward in zip(value, future, RESPONSE.rewards, strict=True):
        assert v == pytest.approx((reward - 0.2) / 0.1 + GAMMA * f)
        assert n == pytest.approx(1 + GAMMA * m)
    assert future[-1] == (0.0, 0.0)


@pytest.mark.parametrize("predict", ["value", "future"])
def test_the_length_output_moves_the_centre(predict: str) -> None:
    old = discounted_returns(pair_rewards(RESPONSE, centre=0.2, scale=0.1, predict=predict), gamma=GAMMA)
    new = discounted_returns(pair_rewards(RESPONSE, centre=0.25, scale=0.1, predict=predict), gamma=GAMMA)
    for (v, n), (moved, _) in zip(old, new, strict=True):
        assert moved == pytest.approx(v - (0.25 - 0.2) / 0.1 * n)


@pytest.mark.parametrize("bad", [["gamma=1.0"], ["gamma=-0.1"], ["reward_centre=median"], ["gama=0.9"]])
def test_impossible_settings_are_refused(bad: list[str]) -> None:
    with pytest.raises(ValueError, match=bad[0].split("=")[0]):
        load(TDConfig, overrides=bad)
