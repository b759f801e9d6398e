"""The tree equals plain attention; dropping rows changes nothing for those that stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from tests import tiny
from visvm.engine import Engine
from visvm.engine.attention import Tree
from visvm.engine.engine import stack
from visvm.engine.sampling import sample, uniforms
from visvm.families import family_of


def test_tree_attention_equals_attention_over_the_joined_keys() -> None:
    torch.manual_seed(0)
    kv_heads, dim, lengths, own = 2, 8, [5, 3], 4
    parents = [torch.randn(1, 2, kv_heads, n, dim) for n in lengths]
    query, key, value = torch.randn(6, 4, own, dim), *torch.randn(2, 6, kv_heads, own, dim).unbind(0)
    tree = Tree([stack(parents)], torch.empty(1, 2, 6, kv_heads, own, dim))
    out = tree.attend(0, query, key, value, dim**-0.5)
    for row in range(6):
        parent = parents[row // 3][0]
        joined = [torch.cat([parent[i], (key, value)[i][row]], dim=1)[None] for i in range(2)]
        total = joined[0].shape[2]
        mask = torch.ones(own, total, dtype=torch.bool).tril(total - own)
        expected = F.scaled_dot_product_attention(
            query[row : row + 1], *joined, attn_mask=mask, enable_gqa=True
        )
        torch.testing.assert_close(out[row : row + 1], expected)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: Any) -> Engine:
    folder = tiny.save("llava_next", tmp_path_factory.mktemp("engine"))
    return Engine(family_of(AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)))


def test_dropping_rows_changes_nothing_for_the_rest(engine: Engine) -> None:
    prefixes = engine.prefill([tiny.picture(0), tiny.picture(1, width=64, height=64)])
    branches = [prefixes[0], prefixes[1], prefixes[0]]
    first, then = torch.arange(10, 19)[:, None], torch.arange(20, 29)[:, None]
    whole = engine.fork(branches, [None] * 3, width=3)
    whole.step(first)
    expected = whole.step(then)
    for kept in ([0, 4, 8], [8, 3, 4, 5], [6]):
        fork = engine.fork(branches, [None] * 3, width=3)
        fork.step(first)
        fork.keep(kept)
        torch.testing.assert_close(fork.step(then[kept]), expected[kept], atol=1e-5, rtol=1e-5)


def test_a_block_goes_on_as_if_never_cut(engine: Engine) -> None:
    (prefix,) = engine.prefill([tiny.picture(0)])
    tokens = torch.arange(10, 22)[None]
    expected = engine.fork([prefix], [None], width=1).step(tokens)
    fork = engine.fork([prefix], [None], width=1)
    fork.step(tokens[:, :7])
    rest = engine.fork([prefix], [fork.block(0, 5)], width=1).step(tokens[:, 5:])
    torch.testing.assert_close(rest, expected[:, 5:], atol=1e-5, rtol=1e-5)


def test_prefixes_are_stored_once_whatever_the_width(engine: Engine) -> None:
    prefixes = engine.prefill([tiny.picture(0)])
    narrow, wide = (engine.fork(prefixes, [None], width=width) for width in (1, 30))
    assert narrow.tree.parents[0].kv.data_ptr() == wide.tree.parents[0].kv.data_ptr()


def test_sampling_follows_the_nucleus() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    draws = torch.linspace(0, 0.9999, 10_000)
    logits = probs.log().expand(len(draws), -1)
    tokens = sample(logits, torch.ones(len(draws)), draws, top_p=0.9)
    shares = torch.bincount(tokens, minlength=4) / len(draws)
    kept = torch.tensor([0.5, 0.3, 0.15, 0.0])
    torch.testing.assert_close(shares, kept / kept.sum(), atol=2e-3, rtol=0)
    assert sample(logits[:1], torch.zeros(1), draws[-1:], top_p=0.9).item() == 0
    assert set(sample(logits, torch.ones(len(draws)), draws, top_k=2).tolist()) == {0, 1}


def test_uniforms_depend_on_the_key_alone() -> None:
    one = uniforms(0, "image", "prompt", (), 3, num=8)
    np.testing.assert_array_equal(one, uniforms(0, "image", "prompt", (), 3, num=16)[:8])
    assert not np.array_equal(one, uniforms(0, "image", "prompt", (), 4, num=8))
