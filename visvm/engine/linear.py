"""Products with few rows on the CPU, which is most of what writing a caption costs there.

A general matrix product gets a third of the processor's speed with two to thirty rows; oneDNN's, over
weights that were cut into its blocks beforehand, gets half. The weights are held twice for it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_ROWS = 32  # from here on the general product is as fast
LEAST_WEIGHTS = 2**17  # below it the call itself costs as much


class FewRowsLinear(nn.Linear):
    """A linear layer with a second copy of its weight in oneDNN's blocks; values and state are the same."""

    _packed: Tensor | None = None
    _version = -1

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        if not 1 < rows <= MOST_ROWS or torch.is_grad_enabled() or input.dtype != torch.float32:
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self._blocks(), self.bias, "none", [], "")

    def _blocks(self) -> Tensor:
        if self._packed is None or self._version != self.weight._version:
            weight = self.weight.detach().contiguous()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
            self._version = self.weight._version
        return self._packed


def pack_linears(module: nn.Module) -> None:
    """Make the linear layers of ``module`` fast with few rows, where they are on the CPU in float32."""
    if not torch.backends.mkldnn.is_available():
        return
    for layer in module.modules():
        if type(layer) is not nn.Linear or layer.weight.device.type != "cpu":
            continue
        if layer.weight.dtype == torch.float32 and layer.weight.numel() >= LEAST_WEIGHTS:
            layer.__class__ = FewRowsLinear
        if layer.out_features > layer.in_features:  # one row: a sixth faster, by column in memory
            layer.weight.data = layer.weight.data.t().contiguous().t()
