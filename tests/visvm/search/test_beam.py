"""Beams and particles over sentences."""

from __future__ import annotations

from dataclasses import astuple

import pytest

from tests.support.fakes import FakePolicy, FakeScorer, request
from visvm.records import Question
from visvm.search import Beam, ParticleFilter, SearchConfig, Stepwise, make_search
from visvm.search.beam import _systematic

REQUESTS = [request(str(i), seed=i) for i in range(12)]


def test_a_beam_of_width_one_is_stepwise_search() -> None:
    steps: list[list] = [[], []]
    stepwise, beam = Stepwise("visvm", step_size=2), Beam(step_size=2)
    for search, own in zip((stepwise, beam), steps, strict=True):
        own += [astuple(one)[1:-1] for one in search(FakePolicy(), FakeScorer(), REQUESTS)]
    assert steps[0] == steps[1]
    costs = [search(FakePolicy(), FakeScorer(), REQUESTS)[3].cost for search in (stepwise, beam)]
    assert costs[0].num_generated_tokens == costs[1].num_generated_tokens
    assert costs[0].num_value_calls == costs[1].num_value_calls


def by_path(question: Question, i: int) -> float:
    """A first sentence that scores best leads only to bad ones, by its first letter."""
    text = question.sentences[i]
    if not question.prefix:
        return 0.9 if " cat" in text else 0.8
    return -1.0 if " cat" in question.prefix[0] else 0.5


def test_a_wider_beam_leaves_a_first_sentence_that_leads_nowhere() -> None:
    one, two = (
        Beam(beam_width=width, max_sentences=3, step_size=4)(FakePolicy(10**9), FakeScorer(by_path), REQUESTS)
        for width in (1, 21)
    )
    means = [[sum(c.values) / len(c.values) for c in captions] for captions in (one, two)]
    assert all(wide >= narrow for narrow, wide in zip(*means, strict=True))
    assert sum(wide > narrow for narrow, wide in zip(*means, strict=True)) >= 3
    assert all(" cat" not in caption.sentences[0] for caption in two)


@pytest.mark.parametrize("search", [Beam(beam_width=3), ParticleFilter(particles=6)])
def test_trace_values_and_sentences_belong_together(search: Beam) -> None:
    for caption in search(FakePolicy(), FakeScorer(), REQUESTS):
        chosen = [step.candidates[step.choice] for step in caption.trace]
        assert tuple(one.text for one in chosen) == caption.sentences
        assert caption.values == tuple(step.values[step.choice] for step in caption.trace)
        assert [one.ended for one in chosen] == [False] * (len(chosen) - 1) + [True]


def test_particles_depend_on_the_request_alone_and_prefer_high_values() -> None:
    search = ParticleFilter(particles=8)
    together = search(FakePolicy(), FakeScorer(), REQUESTS)
    alone = [search(FakePolicy(), FakeScorer(), [one])[0] for one in REQUESTS]
    assert [one.text for one in together] == [one.text for one in alone]
    mean = sum(sum(one.values) / len(one.values) for one in together) / len(together)
    assert mean > 0.6  # scores are uniform in [0, 1)


def test_systematic_resampling_is_in_proportion() -> None:
    assert _systematic([1, 1, 1, 1], 0.3) == [0, 1, 2, 3]
    assert _systematic([0, 3, 1, 0], 0.5) == [1, 1, 1, 2]
    assert _systematic([0.1, 0.2, 0.7], 0.2) == [0, 2, 2]


def test_options_of_beams() -> None:
    assert isinstance(make_search("prm", SearchConfig(beam_width=2)), Beam)
    assert isinstance(make_search("prm", SearchConfig()), Stepwise)
    with pytest.raises(ValueError, match="options of beam_width 1"):
        SearchConfig(beam_width=2, min_reward=0.3)
