"""Searches that ask for rewards beside their scores: the filter, the veto, and the adaptive number."""

from __future__ import annotations

import pytest

from tests.support.fakes import FakePolicy, FakeScorer, draw, request
from visvm.records import Caption, Question
from visvm.scorers import JudgedScorer
from visvm.search import Decode, Filtered, SearchConfig, Stepwise, make_search
from visvm.search.scheduler import SearchTask, run_tasks


def reward(question: Question, j: int) -> float:
    return draw("reward", question.sentences[j]) / 2**32


def scorer() -> JudgedScorer:
    return JudgedScorer(FakeScorer(), FakeScorer(reward))


def run(method: str, *, policy: FakePolicy | None = None, **options: object) -> list[Caption]:
    requests = [request(str(i), seed=i) for i in range(8)]
    return make_search(method, SearchConfig(**options))(policy or FakePolicy(), scorer(), requests)


def rewards_of(caption: Caption) -> list[float]:
    one = request()
    return [reward(Question(one.image, "", (), (text.strip(),), (False,)), 0) for text in caption.sentences]


def test_the_filter_drops_what_is_below_and_keeps_the_rest_as_it_was() -> None:
    whole, kept = run("filter"), run("filter", drop_below=0.4)
    for caption in whole:
        assert caption.values == tuple(rewards_of(caption))
    for before, after in zip(whole, kept, strict=True):
        left = [text.strip() for text, own in zip(before.sentences, before.values, strict=True) if own >= 0.4]
        assert [text.strip() for text in after.sentences] == left
        assert after.text == "".join(after.sentences)
        assert after.cost.num_generated_tokens == before.cost.num_generated_tokens
    assert any(len(a.sentences) < len(b.sentences) for a, b in zip(kept, whole, strict=True))


def test_a_caption_of_which_nothing_is_left_is_empty() -> None:
    for caption in run("filter", drop_below=2.0):
        assert (caption.text, caption.sentences, caption.values) == ("", (), ())


@pytest.mark.parametrize("method", ["greedy", "prm", "visvm", "best_of_n"])
def test_every_method_can_be_filtered(method: str) -> None:
    for before, after in zip(run(method), run(method, drop_below=0.5), strict=True):
        assert after.method == before.method
        assert set(text.strip() for text in after.sentences) <= set(text.strip() for text in before.sentences)
        assert min(rewards_of(after), default=1.0) >= 0.5


def test_a_streamed_caption_has_no_sentence_that_is_dropped() -> None:
    told: list[str] = []
    search = Filtered(Decode(), 0.4)
    task = SearchTask(request("5", seed=5), search.write, on_step=lambda text, _: told.append(text))
    for _ in run_tasks(FakePolicy(), scorer(), [task]):
        assert not told or task.result is not None
    assert task.result is not None
    assert told == list(task.result.sentences)


def test_a_veto_lets_no_candidate_below_it_pass_but_for_the_first() -> None:
    captions = run("visvm", min_reward=0.6)
    for caption in captions:
        assert caption.sentences
        assert all(own >= 0.6 for own in rewards_of(caption)[1:])
    assert {caption.finish_reason for caption in captions} >= {"stop"}


def test_a_veto_asks_for_more_only_where_none_is_good_enough() -> None:
    plain, gentle, strict = FakePolicy(), FakePolicy(), FakePolicy()
    run("visvm", policy=plain)
    assert content(run("visvm", policy=gentle, min_reward=0.0)) == content(run("visvm"))
    assert gentle.proposals == plain.proposals
    captions = run("visvm", policy=strict, min_reward=0.97)
    assert {num for _, num, _ in strict.proposals} == {6, 10}
    assert any(len(step.candidates) > 6 for caption in captions for step in caption.trace)


def test_a_veto_nobody_passes_keeps_the_best_beginning_and_ends() -> None:
    for caption in run("visvm", min_reward=2.0):
        (step,) = caption.trace
        own = [draw("reward", one.text.strip()) for one in step.candidates]
        assert step.choice == own.index(max(own))
        assert len(caption.sentences) == 1


def test_further_candidates_are_asked_for_where_scores_differ() -> None:
    few, some = FakePolicy(), FakePolicy()
    run("visvm", policy=few, min_spread=2.0)
    captions = run("visvm", policy=some, min_spread=0.5)
    assert {num for _, num, _ in few.proposals} == {3}
    sizes = {len(step.candidates) for caption in captions for step in caption.trace}
    assert sizes == {3, 6}
    for caption in captions:
        for step in caption.trace:
            spread = max(step.values[:3]) - min(step.values[:3])
            assert (len(step.candidates) == 6) == (spread >= 0.5)


def content(captions: list[Caption]) -> list[tuple]:
    return [(one.text, one.values, one.trace, one.cost.num_generated_tokens) for one in captions]


def test_rewards_are_counted_as_calls() -> None:
    plain, judged = run("greedy"), run("greedy", drop_below=0.0)
    for before, after in zip(plain, judged, strict=True):
        assert before.cost.num_value_calls == 0
        assert after.cost.num_value_calls == len({text.strip() for text in before.sentences})


def test_a_search_says_whether_it_asks_for_rewards() -> None:
    assert not Stepwise().judges
    assert Stepwise(min_reward=0.1).judges
    assert make_search("sample", SearchConfig(drop_below=0.1)).judges
