"""Rows behind shared images equal plain attention; the store and the rows keep to their budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from tests.support import tiny
from visvm.engine import KV, Engine, ImageStore, Layout, SequenceBatch
from visvm.engine.attention import AttentionPass, Scoring, _scores
from visvm.engine.sampling import sample, uniforms
from visvm.families import Family

KV_HEADS, DIM = 2, 8


def new_kv(rows: int, tokens: int) -> KV:
    return Layout(((0, 0),), ((1, KV_HEADS, DIM),)).zeros(rows, tokens, like=torch.zeros(1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_half_precision_are_not_rounded_before_the_softmax(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, KV_HEADS, 6, 64).to(dtype), torch.randn(2, KV_HEADS, 40, 64).to(dtype)
    scores, exact = _scores(query, key), query.double() @ key.double().transpose(-1, -2)
    assert scores.dtype == torch.float32
    assert (scores - exact).abs().max() < 1e-4 < (exact.to(dtype) - exact).abs().max()


class Layer(torch.nn.Module):
    """An attention layer, as far as a pass asks for it."""

    layer_idx = 0


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 2, 4, 7, 50])
def test_rows_see_their_image_and_their_own_tokens(window: int | None, softcap: float | None) -> None:
    """Images and rows of different lengths, rows in any order, some images with none."""
    torch.manual_seed(0)
    lengths, slots, starts, new = [5, 3, 9, 4], [3, 0, 0, 3, 1], [2, 0, 4, 1, 3], 3
    store = ImageStore(new_kv, max_images=8)
    store.reserve(lengths)
    prefixes = [store.take(length) for length in lengths]
    store.kv.groups[0].normal_()
    own = new_kv(len(slots), max(starts) + new)
    own.groups[0].normal_()
    before = own.groups[0].clone()
    query, key, value = torch.randn(5, 4, new, DIM), *torch.randn(2, 5, KV_HEADS, new, DIM).unbind(0)
    shared = store.shared([prefixes[slot] for slot in slots])
    rows = AttentionPass(shared, own, starts, length=new)
    out = rows.attend(Layer(), query, key, value, Scoring(DIM**-0.5, window, softcap))
    for row, (slot, start) in enumerate(zip(slots, starts, strict=True)):
        parts = (store.kv.layer(0)[:, slot, :, : lengths[slot]], before[0, :, row, :, :start])
        joined = torch.cat([*parts, torch.stack([key[row], value[row]])], dim=2)[:, None]
        mask = torch.ones(new, joined.shape[3], dtype=torch.bool).tril(joined.shape[3] - new)
        if window is not None:
            mask &= torch.ones_like(mask).triu(joined.shape[3] - new - window + 1)
        k, v = joined.repeat_interleave(4 // KV_HEADS, dim=2)
        scores = query[row] @ k[0].transpose(-1, -2) * DIM**-0.5
        scores = scores if softcap is None else softcap * (scores / softcap).tanh()
        expected = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1) @ v[0]
        torch.testing.assert_close(out[row], expected)


def test_a_place_is_free_once_its_prefix_is_gone() -> None:
    store = ImageStore(new_kv, max_images=3)
    assert store.num_free == 3
    assert store.reserve([5, 6, 7, 8]) == 3
    held = [store.take(length) for length in (5, 6, 7)]
    assert (store.num_used, store.num_free, store.reserve([4])) == (3, 0, 0)
    del held[1]
    assert (store.num_used, store.num_free, store.reserve([4])) == (2, 1, 1)
    assert store.take(4).slot == 1


def test_images_stay_as_they_are_while_the_store_grows() -> None:
    store = ImageStore(new_kv, max_images=64)
    held, expected = [], []
    for length in (3, 100, 7, 200, 64, 65):
        assert store.reserve([length]) == 1
        held.append(store.take(length))
        part = store.kv.groups[0][:, :, held[-1].slot, :, :length]
        part.normal_()
        expected.append(part.clone())
    for prefix, kv in zip(held, expected, strict=True):
        torch.testing.assert_close(
            store.kv.groups[0][:, :, prefix.slot, :, : prefix.length], kv, rtol=0, atol=0
        )


def test_the_store_waits_rather_than_break_its_budget() -> None:
    token = new_kv(1, 1).nbytes
    store = ImageStore(new_kv, max_images=64, budget=300 * token)
    assert store.reserve([50] * 10) == 4  # four times 64 tokens
    held = [store.take(50) for _ in range(4)]
    assert store.reserve([100]) == 0
    held.clear()
    assert store.reserve([100, 100, 100]) == 2
    assert store.kv.nbytes == 256 * token
    assert store.reserve([200]) == 1
    assert store.kv.nbytes <= 300 * token
    with pytest.raises(ValueError, match=r"image of 400 tokens .* more than the budget"):
        store.reserve([400])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: Any) -> Engine:
    folder = tiny.save("llava_next", tmp_path_factory.mktemp("engine"))
    return Engine(Family(AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)))


def test_rows_that_come_and_go_change_nothing_for_the_others(engine: Engine) -> None:
    prefixes = engine.prefill([tiny.image(0), tiny.image(1, width=64, height=64)])
    texts = [(0, [10, 11, 12]), (1, [13]), (0, [14, 15, 16, 17, 18]), (1, [19, 20])]
    more = [21, 22, 23, 24, 25]
    expected = [engine.read([prefixes[i]], [text + more])[0][0, len(text) :] for i, text in texts]

    def suffix(i: int, text: list[int]) -> KV:
        return engine.read([prefixes[i]], [text])[1]

    rows, order, seen = SequenceBatch(engine, max_rows=3), [0, 1, 2], {i: 0 for i in range(4)}
    for i in order:
        rows.add(prefixes[texts[i][0]], suffix(*texts[i]), capacity=12)
    for turn in range(7):
        for place, state in enumerate(rows.step([more[seen[i]] for i in order])):
            torch.testing.assert_close(
                state, expected[order[place]][seen[order[place]]], atol=1e-5, rtol=1e-5
            )
            seen[order[place]] += 1
        if turn == 1:  # row 0 gives way to the fourth text
            rows.drop(0)
            order = [order[2], order[1]]
            rows.add(prefixes[texts[3][0]], suffix(*texts[3]), capacity=70)
            order.append(3)
        for place in [place for place, i in enumerate(order) if seen[i] == len(more)][::-1]:
            rows.drop(place)
            order[place] = order[-1]
            order.pop()
        if not order:
            break
    assert seen == {0: 2, 1: 5, 2: 5, 3: 5}


def test_reading_in_two_parts_equals_reading_at_once(engine: Engine) -> None:
    prefixes = engine.prefill([tiny.image(0), tiny.image(1, width=64, height=64)])
    text = list(range(10, 22))
    whole, _ = engine.read(prefixes, [text, text[:9]])
    _, kv = engine.read(prefixes, [text[:5], text[:3]])
    rest, _ = engine.read(prefixes, [text[5:], text[3:9]], [kv.row(0, 0, 5), kv.row(1, 0, 3)])
    torch.testing.assert_close(rest[0], whole[0, 5:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rest[1, :6], whole[1, 3:9], atol=1e-5, rtol=1e-5)


def test_rows_do_not_copy_their_images(engine: Engine) -> None:
    prefixes = engine.prefill([tiny.image(0)])
    for width in (1, 30):
        shared = engine.images.shared(prefixes * width)
        assert shared.kv.layer(0).data_ptr() == engine.images.kv.layer(0)[:, prefixes[0].slot :].data_ptr()


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
