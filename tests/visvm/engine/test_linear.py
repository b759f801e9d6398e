"""Linear layers made fast for few rows compute what they did, also after their weights have changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from visvm.engine import linear, pack_linears


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
        with torch.inference_mode():
            torch.testing.assert_close(packed(rows), plain(rows))


def test_a_changed_weight_is_packed_again_and_gradients_flow() -> None:
    torch.manual_seed(0)
    layer, rows = nn.Sequential(nn.Linear(8, 8)), torch.randn(4, 8)
    pack_linears(layer)
    with torch.inference_mode():
        layer(rows)
    layer(rows).sum().backward()
    with torch.no_grad():
        layer[0].weight -= layer[0].weight.grad
        expected = nn.functional.linear(rows, layer[0].weight, layer[0].bias)
        torch.testing.assert_close(layer(rows), expected)
