"""Scorers in the policy's own process: the same captions, and an error of theirs ends only its request."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.runtime.serve_config import ServeConfig, find_models
from jobs.serve import _is_colocated, _local
from tests.support.endpoint import body, expected, local, png
from tests.support.fakes import FakeScorer
from visvm.config import load
from visvm.records import Question

__all__ = ["local"]

LOADING = {"device": "cpu", "dtype": "float32"}


def test_a_scorer_of_the_same_process_gives_the_same_captions(local: Any) -> None:
    for shade, method in enumerate(("prm", "best_of_n", "mcts")):
        data = body(png(shade), visvm={"method": method})
        answer = local(scorer=FakeScorer()).chat(data)
        assert answer.json()["choices"][0]["message"]["content"] == expected(data, png(shade), method)


def test_its_error_ends_one_request_and_not_the_engine(local: Any) -> None:
    def fail(question: Question, i: int) -> float:
        if "bad" in str(question.prompt):
            raise RuntimeError("no")
        return float(i)

    app = local(scorer=FakeScorer(fail))
    assert app.chat(body(png(), "bad")).status_code == 500
    assert app.chat(body(png())).status_code == 200


@pytest.mark.parametrize(
    ("fields", "is_local"),
    [
        ({}, True),
        ({"colocate_value": False}, False),
        ({"value_scale": {"max_replicas": 2}}, False),
        ({"value_scale": {"min_replicas": 0}}, False),
        ({"value_scale": {"max_replicas": 2}, "colocate_value": True}, True),
        ({"device": "cuda"}, False),
        ({"device": "cuda", "colocate_value": True}, True),
    ],
)
def test_the_value_model_is_with_the_policy_or_by_itself(fields: dict[str, Any], is_local: bool) -> None:
    config = load(ServeConfig, **LOADING | fields)
    assert _is_colocated(config) is is_local
    assert set(_local(config, find_models(config), LOADING)) == ({"value"} if is_local else set())
