"""Properties of every search, tested with arithmetic fakes of policy and scorer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakePolicy, FakeScorer, draw, request
from visvm.records import Caption, Policy, Scorer, Search
from visvm.search import METHODS, BestOfN, Decode, SearchConfig, Stepwise, make_search
from visvm.search.draft import first_best

ALL = sorted(METHODS)
SCORED = [
    name for name in ALL if METHODS[name].needs != "none" and name != "filter"
]  # which asks for rewards
STEPWISE = ["prm", "visvm", "reward_plus_future", "mcts", "oracle"]


def run(method: str, *, policy: FakePolicy | None = None, seeds: int = 3, **options: object) -> list[Caption]:
    requests = [request(str(i), seed=i) for i in range(seeds)]
    search = make_search(method, SearchConfig(**options))
    return search(policy or FakePolicy(), FakeScorer(), requests)


def content(caption: Caption) -> tuple:
    return caption.text, caption.sentences, caption.values, caption.finish_reason, caption.trace


def test_the_fakes_implement_the_protocols() -> None:
    assert isinstance(FakePolicy(), Policy)
    assert isinstance(FakeScorer(), Scorer)
    search: Search = Decode()
    assert search(FakePolicy(), None, [request()])


@pytest.mark.parametrize("method", ALL)
def test_captions_are_complete_and_name_their_method(method: str) -> None:
    for caption in run(method):
        assert caption.method == method
        assert caption.text == "".join(caption.sentences) != ""
        assert caption.finish_reason in ("stop", "length")
        assert caption.cost.seconds > 0
        assert len(caption.values) in (0, len(caption.sentences))


@pytest.mark.parametrize("method", ALL)
def test_a_caption_does_not_depend_on_its_batch(method: str) -> None:
    together = run(method)
    search = make_search(method, SearchConfig())
    alone = [search(FakePolicy(), FakeScorer(), [request(str(i), seed=i)])[0] for i in range(3)]
    assert [content(caption) for caption in together] == [content(caption) for caption in alone]
    assert [c.cost.num_generated_tokens for c in together] == [c.cost.num_generated_tokens for c in alone]
    assert [c.cost.num_value_calls for c in together] == [c.cost.num_value_calls for c in alone]


@pytest.mark.parametrize("method", ALL)
def test_no_requests_give_no_captions(method: str) -> None:
    assert run(method, seeds=0) == []


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("limit", [1, 2])
def test_max_sentences_limits_a_caption(method: str, limit: int) -> None:
    captions = run(method, policy=FakePolicy(end_one_in=1000), max_sentences=limit)
    assert [len(caption.sentences) for caption in captions] == [limit] * 3
    assert {caption.finish_reason for caption in captions} == {"length"}


@pytest.mark.parametrize("method", SCORED)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_stops_the_search(method: str, bad: float) -> None:
    search = make_search(method, SearchConfig())
    with pytest.raises(FloatingPointError, match="finite"):
        search(FakePolicy(), FakeScorer(lambda question, i: bad), [request()])


@pytest.mark.parametrize("method", STEPWISE)
def test_a_caption_ends_with_the_chosen_candidate(method: str) -> None:
    """The published loop asked what the greedy candidate did (defect 3)."""
    differ = 0
    for caption in run(method, seeds=20):
        chosen = [step.candidates[step.choice] for step in caption.trace]
        assert [candidate.ended for candidate in chosen] == [False] * (len(chosen) - 1) + [True]
        assert caption.sentences == tuple(candidate.text for candidate in chosen)
        assert caption.finish_reason == chosen[-1].finish_reason
        differ += any(step.candidates[0].ended != chosen[i].ended for i, step in enumerate(caption.trace))
    assert differ, "the greedy candidate never ended elsewhere than the chosen one: nothing was tested"


@pytest.mark.parametrize("method", SCORED)
def test_the_scorer_is_told_which_sentence_ends_the_caption(method: str) -> None:
    """The end has a value of its own to be asked for (defect 2)."""
    scorer = FakeScorer()
    requests = [request(str(i)) for i in range(5)]
    captions = make_search(method, SearchConfig())(FakePolicy(), scorer, requests)
    told = {
        (question.image.id, question.prefix, sentence, ended)
        for question in scorer.questions
        for sentence, ended in zip(question.sentences, question.ended, strict=True)
    }
    for caption in captions:
        for i, sentence in enumerate(caption.sentences):
            ended = i == len(caption.sentences) - 1 and caption.finish_reason == "stop"
            state = (caption.request.image.id, caption.sentences[:i], sentence.strip(), ended)
            assert state in told


@pytest.mark.parametrize("method", ["best_of_n", "prm", "visvm"])
def test_nothing_is_scored_twice(method: str) -> None:
    scorer = FakeScorer()
    [caption] = make_search(method, SearchConfig(step_size=8))(FakePolicy(), scorer, [request()])
    asked = [(q.prefix, s, e) for q in scorer.questions for s, e in zip(q.sentences, q.ended, strict=True)]
    assert len(asked) == len(set(asked)) == caption.cost.num_value_calls
    assert caption.cost.num_value_calls < sum(len(step.candidates) for step in caption.trace) * 5


@pytest.mark.parametrize("method", ALL)
def test_every_sampled_token_is_counted(method: str) -> None:
    policy = FakePolicy()
    sampled: list[int] = []
    propose = policy.propose

    def counting(*args: object, **kwargs: object) -> list:
        proposals = propose(*args, **kwargs)
        sampled.append(sum(len(c.token_ids) for row in proposals for c in row))
        return proposals

    policy.propose = counting  # type: ignore[method-assign]
    captions = run(method, policy=policy)
    assert sum(caption.cost.num_generated_tokens for caption in captions) == sum(sampled) > 0


def test_greedy_calls_no_scorer() -> None:
    scorer = FakeScorer()
    [caption] = Decode()(FakePolicy(), scorer, [request()])
    assert scorer.num_calls == caption.cost.num_value_calls == 0
    assert caption.trace == caption.values == ()


def test_greedy_by_sentences_equals_greedy_in_one_piece() -> None:
    requests = [request(str(i)) for i in range(10)]
    whole = Decode()(FakePolicy(), None, requests)
    steps = Stepwise(temperatures=())(FakePolicy(), FakeScorer(), requests)
    assert [(c.sentences, c.finish_reason) for c in whole] == [(c.sentences, c.finish_reason) for c in steps]
    assert [c.cost.num_generated_tokens for c in whole] == [c.cost.num_generated_tokens for c in steps]


def test_a_turn_is_one_call_for_all_live_captions() -> None:
    policy, scorer = FakePolicy(), FakeScorer()
    captions = Stepwise()(policy, scorer, [request(str(i)) for i in range(10)])
    lengths = [len(caption.sentences) for caption in captions]
    live = [sum(length > turn for length in lengths) for turn in range(max(lengths))]
    assert policy.proposals == [(n, 6, False) for n in live]
    assert scorer.num_calls == max(lengths)


@pytest.mark.parametrize("step_size", [1, 2, 16])
def test_step_size_is_the_number_of_samples_per_temperature(step_size: int) -> None:
    [caption] = run("prm", seeds=1, step_size=step_size)
    temperatures = [candidate.temperature for candidate in caption.trace[0].candidates]
    assert temperatures == [0.0] + [0.1, 0.3, 0.5, 0.7, 0.9] * step_size


def test_a_larger_step_size_keeps_the_candidates_of_a_smaller_one() -> None:
    small, large = (run("prm", seeds=1, step_size=k)[0].trace[0].candidates for k in (1, 2))
    assert large[: len(small)] == small


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), step_size=st.integers(1, 4), coarse=st.integers(1, 6))
def test_stepwise_never_loses_the_best_candidate(seed: int, step_size: int, coarse: int) -> None:
    """Coarse scores make ties: the first of the best is kept."""
    scorer = FakeScorer(lambda question, i: float(draw(seed, question.sentences[i]) % coarse))
    captions = Stepwise(step_size=step_size)(FakePolicy(), scorer, [request(seed=seed), request("2")])
    for caption in captions:
        for step, value in zip(caption.trace, caption.values, strict=True):
            assert step.values[step.choice] == value == max(step.values)
            assert step.choice == step.values.index(value)


def test_the_first_of_equals_is_chosen() -> None:
    assert first_best([1.0, 3.0, 3.0]) == 1
    [caption] = Stepwise()(FakePolicy(), FakeScorer(lambda question, i: 0.5), [request()])
    assert {step.choice for step in caption.trace} == {0}
    assert caption.text == Decode()(FakePolicy(), None, [request()])[0].text
    [caption] = BestOfN()(FakePolicy(), FakeScorer(lambda question, i: 0.5), [request()])
    assert caption.trace[0].choice == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 6))
def test_best_of_n_chooses_the_best_mean(seed: int, samples: int) -> None:
    scorer = FakeScorer()
    [caption] = BestOfN(samples_per_temperature=samples)(FakePolicy(), scorer, [request(seed=seed)])
    [step] = caption.trace
    assert len(step.candidates) == 5 * samples
    assert step.values[step.choice] == max(step.values)
    assert caption.text == step.candidates[step.choice].text
    assert sum(caption.values) / len(caption.values) == pytest.approx(max(step.values))


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match=r"'beam'.*greedy"):
        make_search("beam", SearchConfig())


@pytest.mark.parametrize("options", [{"temperatures": [0.0]}, {"temperatures": []}, {"step_size": 0}])
def test_impossible_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError):
        SearchConfig(**options)


@pytest.mark.parametrize("number", [1, 2])
def test_a_probe_chooses_one_sentence_and_leaves_the_others_greedy(number: int) -> None:
    greedy = run("greedy")
    for probe, plain in zip(run("prm", choose_at=number), greedy, strict=True):
        assert [len(step.candidates) > 1 for step in probe.trace] == [
            place == number for place in range(1, len(probe.trace) + 1)
        ]
        assert probe.sentences[: number - 1] == plain.sentences[: number - 1]
