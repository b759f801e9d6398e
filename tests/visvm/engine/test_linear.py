"""Linear layers made fast for few rows compute what they did, also after their weights have changed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from tests.visvm.test_policy import requests
from visvm.engine import linear, pack_linears
from visvm.policy import SharedPrefixPolicy


@pytest.fixture(autouse=True)
def _small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "LEAST_WEIGHTS", 0)


def test_values_are_those_of_the_plain_layer_for_any_number_of_rows() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 16, bias=False))
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    assert type(packed[0]) is linear.FewRowsLinear
    assert packed.state_dict().keys() == plain.state_dict().keys()
    for shape in ((1, 24), (2, 24), (7, 24), (3, 5, 24), (100, 24)):
        rows = torch.randn(shape)
        with torch.inference_mode(), linear.few_rows():
            torch.testing.assert_close(packed(rows), plain(rows))


def test_a_changed_weight_is_packed_again_and_gradients_flow() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Sequential(nn.Linear(8, 8)), torch.randn(4, 8)
    pack_linears(layer)
    with torch.inference_mode(), linear.few_rows():
        layer(rows)
    layer(rows).sum().backward()
    with torch.no_grad(), linear.few_rows():
        layer[0].weight -= layer[0].weight.grad
        expected = nn.functional.linear(rows, layer[0].weight, layer[0].bias)
        torch.testing.assert_close(layer(rows), expected)


def test_a_weight_written_through_data_is_never_stale() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Linear(24, 40), torch.randn(4, 24)
    packed = pack_linears(layer)
    with torch.inference_mode():
        with linear.few_rows():
            layer(rows)
        layer.weight.data[3, 5] += 0.1
        expected = nn.functional.linear(rows, layer.weight, layer.bias)
        assert torch.equal(layer(rows), expected)
        linear.refresh(packed)
        with linear.few_rows():
            torch.testing.assert_close(layer(rows), expected)
        assert packed[0]._packed is not None
        linear.refresh(packed)
        assert packed[0]._packed is not None, "an unchanged weight is not packed again"


def test_a_policy_whose_weights_were_written_through_data_equals_generate(tiny_policy: Path) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(tiny_policy), max_new_tokens=8)
    model = AutoModelForImageTextToText.from_pretrained(tiny_policy).eval()
    asked = requests()
    before = policy.propose(policy.open(asked), [0.0, 1.0], whole=True)
    torch.manual_seed(3)
    for own, theirs in (
        (policy.family.language_model, model.model.language_model),
        (policy.decoder.lm_head.linear, model.lm_head),
    ):
        for mine, other in zip(own.parameters(), theirs.parameters(), strict=True):
            mine.data += (noise := 0.1 * torch.randn(other.shape))
            other.data += noise
    after = policy.propose(policy.open(asked), [0.0, 1.0], whole=True)
    assert before != after
    for request, (candidate, _) in zip(asked, after, strict=True):
        given = policy.family.inputs(request.image, request.prompt)
        out = model.generate(**given, do_sample=False, max_new_tokens=8, min_new_tokens=1)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]
