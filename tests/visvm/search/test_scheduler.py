"""Concurrent captions: none waits for another without need, and none affects another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support import tiny
from tests.support.fakes import FakePolicy, FakeScorer, request
from visvm.policy import SharedPrefixPolicy
from visvm.records import Branch, Candidate, Caption, Question, Request
from visvm.search import MCTS, BestOfN, Oracle, Stepwise
from visvm.search.scheduler import SearchContext, run_searches

MIB = 2**20


@dataclass
class SlowPolicy(FakePolicy):
    """A fake policy whose candidates take as many steps as they have tokens."""

    clock: int = 0
    due: dict[int, tuple[int, Any]] = field(default_factory=dict)

    def submit(self, branches: Sequence[Any], temperatures: Sequence[float], *, whole: bool = False) -> int:
        rows = self.propose(branches, temperatures, whole=whole)
        number = len(self.proposals)
        self.due[number] = (self.clock + max(len(one.token_ids) for row in rows for one in row), rows)
        return number

    def step(self) -> dict[int, list[list[Candidate]]]:
        self.clock += 1
        done = [number for number, (at, _) in self.due.items() if at <= self.clock]
        return {number: self.due.pop(number)[1] for number in done}


def test_a_free_slot_is_filled_at_once_and_no_caption_waits_for_another() -> None:
    """With three slots, each greedy caption starts when a slot is free and takes only its own tokens."""
    policy = SlowPolicy(num_free=3)
    times: list[tuple[int, int, int]] = []

    async def write(context: SearchContext, branch: Branch) -> int:
        policy.num_free -= 1
        started, tokens = policy.clock, 0
        while not branch.ended:
            ((candidate,),) = await context.propose([branch], [0.0])
            tokens += len(candidate.token_ids)
            (branch,) = context.commit([branch], [candidate])
        policy.num_free += 1
        times.append((started, policy.clock, tokens))
        return tokens

    results = run_searches(policy, None, [request(str(i)) for i in range(30)], write)
    assert sorted(results) == sorted(tokens for _, _, tokens in times)
    assert all(end - start == tokens for start, end, tokens in times)
    starts, ends = sorted(start for start, _, _ in times), sorted(end for _, end, _ in times)
    assert starts[:3] == [0, 0, 0]
    assert starts[3:] == ends[:-3]


def test_questions_of_several_captions_share_a_call() -> None:
    policy, scorer = SlowPolicy(), FakeScorer()
    captions = Stepwise()(policy, scorer, [request(str(i)) for i in range(40)])
    sentences = sum(len(caption.sentences) for caption in captions)
    assert scorer.num_calls < sentences / 4
    assert len(scorer.questions) == sentences


def test_results_do_not_depend_on_the_number_of_slots() -> None:
    requests = [request(str(i)) for i in range(12)]

    def content(search: Any, policy: FakePolicy) -> list[tuple]:
        captions: list[Caption] = search(policy, FakeScorer(), requests)
        return [(one.request.image.id, one.text, one.values, one.trace) for one in captions]

    for search in (Stepwise(), MCTS(), BestOfN(), Oracle()):
        assert content(search, SlowPolicy()) == content(search, FakePolicy())


def test_a_failure_leaves_nothing_behind() -> None:
    def fail(question: Question, i: int) -> float:
        if question.image.id == "3":
            raise RuntimeError("no score for image 3")
        return 0.5

    policy = FakePolicy()
    with pytest.raises(RuntimeError, match="image 3"):
        Stepwise()(policy, FakeScorer(fail), [request(str(i)) for i in range(8)])
    assert policy.submitted == {}
    assert Stepwise()(policy, FakeScorer(), [request("3")])


@pytest.fixture(scope="module", params=tiny.NAMES)
def folder(request: Any, tmp_path_factory: Any) -> str:
    return str(tiny.save(request.param, tmp_path_factory.mktemp(request.param)))


def eight() -> list[Request]:
    """Return requests with one prompt and images of four shapes, so that prefixes differ in length."""
    shapes = [(40, 30), (30, 60), (64, 64), (30, 30)]
    return [
        Request(tiny.image(i, width=shapes[i % 4][0], height=shapes[i % 4][1]), "Describe the image.")
        for i in range(8)
    ]


def written(captions: Sequence[Caption]) -> list[tuple]:
    return [
        (
            caption.text,
            caption.finish_reason,
            [[one.token_ids for one in step.candidates] for step in caption.trace],
        )
        for caption in captions
    ]


def test_a_caption_is_the_same_alone_in_a_batch_and_whatever_the_limits(folder: str) -> None:
    search = Stepwise(temperatures=(0.5, 1.0))
    policy = SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=30)
    together = written(search(policy, FakeScorer(), eight()))
    alone = [written(search(policy, FakeScorer(), [one]))[0] for one in eight()]
    assert together == alone
    for limits in ({"max_images": 3, "max_rows": 5}, {"max_rows": 1}, {"cache_mb": 1, "max_rows": 8}):
        tight = SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=30, **limits)
        assert written(search(tight, FakeScorer(), eight())) == alone, limits


def test_the_budget_holds_under_64_queued_images(folder: str) -> None:
    policy = SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=30, max_rows=8, cache_mb=1)
    images, rows = policy.engine.images, policy.decoder.rows
    most, num_open, new_kv = 0, 0, policy.engine.new_kv

    def counting(places: int, tokens: int) -> Any:
        nonlocal most
        kv = new_kv(places, tokens)
        if tokens > 1:
            most = max(most, images.kv.nbytes + rows.kv.nbytes + kv.nbytes)
        return kv

    async def write(context: SearchContext, branch: Branch) -> str:
        nonlocal num_open
        num_open = max(num_open, images.num_used)
        ((candidate,),) = await context.propose([branch], [0.7], whole=True)
        return candidate.text

    images.new_kv = policy.engine.new_kv = counting
    requests = [
        Request(tiny.image(i, width=30 + 10 * (i % 4), height=30 + 15 * (i % 3)), "Describe it.")
        for i in range(64)
    ]
    texts = run_searches(policy, None, requests, write)
    assert len(texts) == 64
    assert 1 < num_open < 64
    assert 0 < most <= MIB, "no buffer, not even while it grows, goes beyond the budget"
    assert images.num_used == len(rows) == 0
