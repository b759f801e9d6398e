"""One request can harm no other: long prompts, no memory, logits that are no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.support import tiny
from tests.support.fakes import FakePolicy, request, until
from visvm.policy import SharedPrefixPolicy
from visvm.records import Question, Request
from visvm.search import Decode, Stepwise
from visvm.search.scheduler import SearchTask, run_tasks
from visvm.search.scheduler_thread import EngineFailed, SchedulerThread

SHORT, LONG = "Describe it.", "Describe it. " * 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("llava", tmp_path_factory.mktemp("llava")))


def make(folder: str, **options: Any) -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=12, max_rows=4, **options)


def run(policy: Any, prompts: list[str]) -> list[str | Exception]:
    """Write a caption for each prompt; return its text or its error."""
    requests = [Request(tiny.image(i), prompt) for i, prompt in enumerate(prompts)]
    tasks = [SearchTask(one, Decode().write) for one in requests]
    for _ in run_tasks(policy, None, tasks):
        pass
    return [task.error or task.result.text for task in tasks]  # type: ignore[union-attr]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_prompt_beyond_the_budget_fails_alone(folder: str, place: int) -> None:
    prompts = [SHORT] * 3
    prompts.insert(place, LONG)
    policy = make(folder, cache_mb=1)
    results = run(policy, prompts)
    assert isinstance(results[place], ValueError)
    expected = run(make(folder), [SHORT] * 4)
    assert [one for i, one in enumerate(results) if i != place] == [
        one for i, one in enumerate(expected) if i != place
    ]
    assert policy.num_free > 0


@pytest.mark.parametrize("options", [{"max_prompt_tokens": 40}, {}], ids=["limit", "context"])
def test_prompts_are_bounded_in_tokens(folder: str, options: dict[str, int]) -> None:
    policy = make(folder, **options)
    if not options:
        policy.family.text_config.max_position_embeddings = 40
    assert policy.open([Request(tiny.image(0), SHORT)])
    results = run(policy, [SHORT, SHORT * 10, SHORT])
    assert [isinstance(one, ValueError) for one in results] == [False, True, False]
    assert "tokens, at most 40 are read" in str(results[1])


@pytest.mark.timeout(120)
def test_an_engine_goes_on_after_a_prompt_beyond_its_budget(folder: str) -> None:
    done: list[SearchTask[Any]] = []
    thread = SchedulerThread(make(folder, cache_mb=1))
    try:
        for i, prompt in enumerate([LONG, SHORT]):
            thread.add(SearchTask(Request(tiny.image(i), prompt), Decode().write, on_done=done.append))
            until(lambda i=i: len(done) == i + 1)  # type: ignore[misc]
    finally:
        thread.close()
    assert isinstance(done[0].error, ValueError)
    assert done[1].error is None


class FullPolicy(FakePolicy):
    """It never has room."""

    def open(self, requests: Any) -> list[Any]:
        return []


def test_an_engine_that_opens_nothing_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visvm.search.scheduler.Scheduler._open", lambda *_: False)
    thread = SchedulerThread(FullPolicy())
    try:
        thread.check(0.0)
        thread.add(SearchTask(request(), Decode().write))
        until(lambda: thread._stalled_since is not None)
        thread.check(3600.0)
        with pytest.raises(EngineFailed, match="stuck"):
            thread.check(0.0)
    finally:
        thread.close()


def test_a_lack_of_memory_in_a_step_ends_the_longest_caption_only(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, prompts = make(folder), [SHORT, SHORT * 20, SHORT]
    expected = run(policy, prompts)
    rows, step = policy.decoder.rows, policy.decoder.rows.step

    def tight(tokens: Any) -> torch.Tensor:
        if max(rows.lengths) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(tokens)

    monkeypatch.setattr(rows, "step", tight)
    results = run(policy, prompts)
    assert isinstance(results[1], torch.OutOfMemoryError)
    assert [results[0], results[2]] == [expected[0], expected[2]]


def test_a_lack_of_memory_for_a_row_ends_its_caption_only(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, prompts = make(folder), [SHORT, SHORT * 20, SHORT]
    expected = run(policy, prompts)
    new_kv = policy.engine.new_kv
    allocator = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000 bytes"

    def tight(places: int, tokens: int) -> Any:
        if tokens > 64 and policy.decoder.live:
            raise RuntimeError(allocator)
        return new_kv(places, tokens)

    monkeypatch.setattr(policy.engine, "new_kv", tight)
    results = run(policy, prompts)
    assert isinstance(results[1], RuntimeError)
    assert [results[0], results[2]] == [expected[0], expected[2]]


def test_any_other_failure_of_a_step_is_the_engines(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make(folder)

    def broken(tokens: Any) -> torch.Tensor:
        raise RuntimeError("a bug")

    monkeypatch.setattr(policy.decoder.rows, "step", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(policy, [SHORT])


def test_logits_that_are_not_finite_are_an_error_of_their_caption(folder: str) -> None:
    policy = make(folder)
    expected = run(policy, [SHORT] * 3)
    head = policy.decoder.lm_head

    class Poisoned(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = head(hidden)
            if len(logits) > 1:
                logits[1] = float("nan")
            return logits

    policy.decoder.lm_head = Poisoned()
    results = run(policy, [SHORT] * 3)
    failed = [isinstance(one, ValueError) and "not finite" in str(one) for one in results]
    assert any(failed)
    assert all(
        is_failed or one == wanted for one, wanted, is_failed in zip(results, expected, failed, strict=True)
    )


def test_rows_give_back_the_memory_of_a_long_prompt(folder: str) -> None:
    policy = make(folder)
    number = policy.submit(policy.open([Request(tiny.image(0), LONG)]), [0.0])
    while number not in policy.step():
        assert policy.decoder.rows.kv.nbytes > 0
    assert policy.decoder.rows.kv.nbytes == 0


class NoScorer:
    """It scores everything NaN."""

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        return [[float("nan")] * len(question.sentences) for question in questions]


def test_a_score_that_is_no_number_is_an_error_of_its_caption() -> None:
    task: SearchTask[Any] = SearchTask(request(), Stepwise().write)
    for _ in run_tasks(FakePolicy(), NoScorer(), [task]):
        pass
    assert "nan" in str(task.error)


def test_image_and_prompt_are_bounded_by_the_context(folder: str) -> None:
    policy = make(folder)
    (branch,) = policy.open([Request(tiny.image(0), SHORT)])
    policy.family.text_config.max_position_embeddings = branch.num_prompt_tokens
    results = run(policy, [SHORT, SHORT + " and more", SHORT])
    assert [isinstance(one, ValueError) for one in results] == [False, True, False]
    assert "give a smaller image or a shorter prompt" in str(results[1])
