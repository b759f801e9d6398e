"""MCTS and the oracle: look-ahead by tree search and by sampled completions."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakeBranch, FakePolicy, FakeScorer, request
from visvm.records import Branch, Candidate
from visvm.search import MCTS, Oracle, Stepwise


@dataclass
class Trap(FakePolicy):
    """Offer first a good sentence that is followed by a bad one, or a fair one that leads to a good one."""

    scores: dict[str, float] = field(
        default_factory=lambda: {" Trap.": 0.6, " Fair.": 0.5, " Bad.": 0.0, " Good.": 0.6}
    )

    def _sentence(self, branch: Branch, temperature: float, j: int) -> Candidate:
        if not branch.text:
            return Candidate((" Trap.", " Fair.")[j % 2], (1, 2), "sentence", temperature, 0.0)
        text = " Bad." if branch.text == " Trap." else " Good."
        return Candidate(text, (1, 2), "stop", temperature, 0.0)

    def scorer(self) -> FakeScorer:
        return FakeScorer(lambda question, i: self.scores[" " + question.sentences[i]])


def test_the_reward_alone_falls_into_the_trap() -> None:
    policy = Trap()
    [caption] = Stepwise()(policy, policy.scorer(), [request()])
    assert caption.text == " Trap. Bad."


def test_mcts_avoids_the_trap() -> None:
    policy = Trap()
    [caption] = MCTS()(policy, policy.scorer(), [request()])
    assert caption.text == " Fair. Good."


def test_the_oracle_avoids_the_trap() -> None:
    policy = Trap()
    [caption] = Oracle(gamma=0.9, centre=0.1)(policy, policy.scorer(), [request()])
    assert caption.text == " Fair. Good."
    assert caption.trace[0].values[:2] == pytest.approx((0.5 - 0.9 * 0.1, 0.4 + 0.9 * 0.5))
    assert caption.trace[1].values[0] == pytest.approx(0.5)


def test_the_oracle_completes_equal_candidates_once() -> None:
    policy = Trap()
    [caption] = Oracle(completions=3)(policy, policy.scorer(), [request()])
    assert policy.proposals == [(1, 6, False), (2, 3, True), (1, 6, False)]
    assert caption.cost.num_generated_tokens == 2 * (6 + 2 * 3 + 6)


def test_a_completion_beyond_the_limit_is_not_counted() -> None:
    policy = Trap()
    [caption] = Oracle(max_sentences=1)(policy, policy.scorer(), [request()])
    assert caption.text == " Trap."


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    step_size=st.integers(1, 3),
    exploration=st.floats(0, 5),
    limit=st.none() | st.integers(1, 4),
)
def test_mcts_of_one_simulation_is_stepwise_search(
    seed: int, step_size: int, exploration: float, limit: int | None
) -> None:
    requests = [request("1", seed=seed), request("2", seed=seed)]
    prm = Stepwise(step_size=step_size, max_sentences=limit)
    tree = MCTS(name="prm", step_size=step_size, simulations=1, exploration=exploration, max_sentences=limit)
    expected = prm(FakePolicy(), FakeScorer(), requests)
    found = tree(FakePolicy(), FakeScorer(), requests)
    for one, other in zip(expected, found, strict=True):
        one.cost.seconds = other.cost.seconds = 0.0
    assert found == expected


def test_mcts_costs_about_seven_times_stepwise() -> None:
    requests = [request(str(i)) for i in range(40)]

    def tokens(search: Stepwise | MCTS) -> float:
        captions = search(FakePolicy(end_one_in=40), FakeScorer(), requests)
        sentences = sum(len(caption.sentences) for caption in captions)
        return sum(caption.cost.num_generated_tokens for caption in captions) / sentences

    assert 5.5 <= tokens(MCTS()) / tokens(Stepwise()) <= 7


def test_mcts_never_expands_an_ended_caption() -> None:
    captions = MCTS(simulations=30)(
        FakePolicy(end_one_in=2), FakeScorer(), [request(str(i)) for i in range(9)]
    )
    assert all(caption.finish_reason == "stop" for caption in captions)  # FakePolicy asserts the rest


def test_back_up_is_the_weighted_mean_of_the_rewards_below() -> None:
    policy = Trap()
    [caption] = MCTS(gamma=0.5, simulations=3)(policy, policy.scorer(), [request()])
    trap, fair = (0.6 + (0.6 + 0.5 * 0.0) / 1.5) / 2, (0.5 + (0.5 + 0.5 * 0.6) / 1.5) / 2
    assert caption.trace[0].values[:2] == pytest.approx((trap, fair))


def test_branches_of_the_tree_stay_usable() -> None:
    branch = FakeBranch(request())
    policy = FakePolicy()
    [[candidate]] = policy.propose([branch], [0.0])
    policy.commit([branch], [candidate])
    assert branch.text == ""
