"""States of layers without attention: forks, rows that come and go, unequal lengths, budgets, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.capacity.memory import size_of
from tests.support import tiny, tiny_families
from tests.visvm.test_policy import requests
from visvm.engine.tree_packing import TokenTree, one_text_a_row, pack_trees
from visvm.policy import SharedPrefixPolicy
from visvm.training.config import ValueTraining
from visvm.training.rollouts import Response, Rollout
from visvm.training.value_loop import build


@pytest.fixture(scope="module", params=["qwen3_5", "lfm2_vl"])
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def policy(folder: Path) -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=24)


def test_candidates_do_not_depend_on_the_batch_nor_on_rows_that_leave(policy: SharedPrefixPolicy) -> None:
    asked, temperatures = requests(), [0.0, 0.7, 1.0]
    together = policy.propose(policy.open(asked), temperatures)
    for request, candidates in zip(asked, together, strict=True):
        (alone,) = policy.propose(policy.open([request]), temperatures)
        assert [one.token_ids for one in alone] == [one.token_ids for one in candidates]
        expected = [one.log_prob for one in candidates]
        assert [one.log_prob for one in alone] == pytest.approx(expected, abs=1e-3)


def test_old_branches_stay_usable_and_greedy_by_sentences_is_greedy(policy: SharedPrefixPolicy) -> None:
    for request in requests():
        (start,) = policy.open([request])
        ((whole,),) = policy.propose([start], [0.0], whole=True)
        branch = start
        while not branch.ended:
            ((first, other),) = policy.propose([branch], [0.0, 1.0])
            policy.commit([branch], [other])  # a fork that nobody follows
            (branch,) = policy.commit([branch], [first])
        assert branch.text == whole.text


def test_texts_of_unequal_length_are_read_as_alone(policy: SharedPrefixPolicy) -> None:
    engine = policy.engine
    prefixes = engine.prefill([tiny.image(0), tiny.image(1, width=60)])
    texts = [[10, 11, 12], [20], [30, 31]]
    behind = [prefixes[0], prefixes[1], prefixes[0]]
    hidden, kv = engine.read(behind, texts)
    for i, text in enumerate(texts):
        alone, own = engine.read([behind[i]], [text])
        torch.testing.assert_close(hidden[i, : len(text)], alone[0], rtol=1e-4, atol=1e-5)
        assert own.states and kv.states
        for key, state in own.states.items():
            torch.testing.assert_close(kv.states[key][i : i + 1], state, rtol=1e-4, atol=1e-5)
        on, _ = engine.read([behind[i]], [[40, 41]], [kv.row(i, 0, len(text))])
        at_once, _ = engine.read([behind[i]], [[*text, 40, 41]])
        torch.testing.assert_close(on[0], at_once[0, -2:], rtol=1e-4, atol=1e-5)


def test_states_are_counted_in_the_budget_and_the_plan(policy: SharedPrefixPolicy, folder: Path) -> None:
    store = policy.engine.images
    (prefix,) = policy.engine.prefill([tiny.image(0)])
    assert store.state_bytes == sum(state.nbytes for state in prefix.row_states.values()) > 0
    assert size_of(str(folder)).state_bytes == store.state_bytes
    rows = policy.decoder.rows
    assert rows.most_bytes(64) >= rows.max_rows * store.state_bytes
    tight = SharedPrefixPolicy.from_pretrained(str(folder))
    tight.engine.images.budget = store.token_bytes * prefix.length + store.state_bytes // 2
    with pytest.raises(ValueError, match="raise the budget"):
        tight.engine.prefill([tiny.image(0)])


def test_each_text_gets_a_row_and_a_text_within_another_shares_it() -> None:
    trees, texts = [TokenTree(), TokenTree()], ([[1, 2, 3], [1, 2], [1, 4]], [[5]])
    reads = [[tree.add(text)[-1] for text in own] for tree, own in zip(trees, texts, strict=True)]
    rows, images = one_text_a_row(pack_trees(trees, reads))
    assert sorted(images) == [0, 0, 1]
    read = [
        rows.tokens[row, : column + 1].tolist() for row, column in zip(rows.rows, rows.columns, strict=True)
    ]
    assert read == [[1, 2, 3], [1, 2], [1, 4], [5]]


def test_checkpointing_of_such_a_value_model_is_refused(folder: Path, tmp_path: Path) -> None:
    rollout = Rollout("0", "x.png", "x", (Response(("A dog.",), (0.1,), stopped=True),))
    with pytest.raises(ValueError, match="gradient_checkpointing"):
        build(str(folder), [rollout, rollout], ValueTraining(gradient_checkpointing=True))


def test_empty_texts_are_read_as_nothing(policy: SharedPrefixPolicy) -> None:
    """Alone or among others: no hidden state, and the states are those of the image."""
    engine = policy.engine
    (prefix,) = engine.prefill([tiny.image(0)])
    alone, own = engine.read([prefix], [[]])
    among, kv = engine.read([prefix, prefix], [[], [10, 11]])
    assert alone.shape[:2] == (1, 0) and own.num_tokens == 0
    assert own.states and kv.states
    for key, state in prefix.row_states.items():
        assert torch.equal(own.states[key], state) and torch.equal(kv.states[key][:1], state)
    expected, _ = engine.read([prefix], [[10, 11]])
    torch.testing.assert_close(among[1], expected[0])
