"""Searches with the real policy on a small random model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import tiny
from tests.support.fakes import FakeScorer
from visvm.policy import SharedPrefixPolicy
from visvm.records import Caption, Request
from visvm.search import MCTS, METHODS, Decode, SearchConfig, Stepwise, make_search


@pytest.fixture(scope="module")
def policy(tmp_path_factory: Any) -> SharedPrefixPolicy:
    folder = tiny.save("llava", tmp_path_factory.mktemp("llava"))
    return SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=40)


def requests() -> list[Request]:
    return [Request(tiny.image(i), "Describe the image.", seed=i) for i in range(3)]


def texts(captions: list[Caption]) -> list[tuple]:
    return [(caption.sentences, caption.finish_reason, caption.cost.num_value_calls) for caption in captions]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_search_works_with_the_real_policy(policy: SharedPrefixPolicy, method: str) -> None:
    search = make_search(method, SearchConfig(samples_per_temperature=1, simulations=3))
    captions = search(policy, FakeScorer(), requests())
    assert all(caption.text == "".join(caption.sentences) != "" for caption in captions)
    assert all(caption.cost.num_generated_tokens > 0 for caption in captions)


def test_greedy_by_sentences_equals_greedy_in_one_piece(policy: SharedPrefixPolicy) -> None:
    whole = Decode()(policy, None, requests())
    steps = Stepwise(temperatures=())(policy, FakeScorer(), requests())
    assert [caption.text for caption in steps] == [caption.text for caption in whole]


def test_mcts_of_one_simulation_is_stepwise_search(policy: SharedPrefixPolicy) -> None:
    stepwise = Stepwise()(policy, FakeScorer(), requests())
    assert texts(MCTS(simulations=1)(policy, FakeScorer(), requests())) == texts(stepwise)
