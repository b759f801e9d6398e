"""Products with few rows on the CPU, which is most of what writing a caption costs there.

A general matrix product gets a third of the processor's speed with two to thirty rows; oneDNN's, over
weights that were cut into its blocks beforehand, gets half. The weights are held twice for it. The second
copy is used by the engine alone, within ``few_rows``, and ``refresh`` finds every weight that has changed
since, also by ways that leave no trace (``weight.data += ...``): so it is never stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

MOST_ROWS = 32  # from here on the general product is as fast
LEAST_WEIGHTS = 2**17  # below it the call itself costs as much
_is_used: ContextVar[bool] = ContextVar("visvm_few_rows", default=False)


class FewRowsLinear(nn.Linear):
    """A linear layer with a second copy of its weight in oneDNN's blocks; values and state are the same."""

    _packed: Tensor | None = None
    _version = -1
    _product: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        rows = input.numel() // self.in_features
        is_few = 1 < rows <= MOST_ROWS and input.dtype == torch.float32
        if not (is_few and _is_used.get()) or torch.is_grad_enabled():
            return super().forward(input)
        return torch.ops.mkldnn._linear_pointwise(input, self._blocks(), self.bias, "none", [], "")

    def _blocks(self) -> Tensor:
        if self._packed is None or self._version != self.weight._version:
            weight = self.weight.detach().contiguous()
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, 8)
            self._version = self.weight._version
        return self._packed

    @torch.no_grad()
    def refresh(self) -> None:
        """Forget the second copy if the weight has changed: its product with a fixed vector tells."""
        generator = torch.Generator().manual_seed(0)
        product = self.weight @ torch.randn(self.in_features, generator=generator)
        if self._product is None or not torch.equal(product, self._product):
            self._packed, self._product = None, product


@contextmanager
def few_rows() -> Iterator[None]:
    """Let packed layers use their second copy meanwhile."""
    token = _is_used.set(True)
    try:
        yield
    finally:
        _is_used.reset(token)


def refresh(layers: Sequence[FewRowsLinear]) -> None:
    """Forget the copies of weights that have changed; costs as much as one token."""
    for layer in layers:
        layer.refresh()


def pack_linears(module: nn.Module) -> list[FewRowsLinear]:
    """Make the linear layers of ``module`` fast with few rows, where they are on the CPU in float32.

    Returns the layers that hold a second copy. Quantised weights are left as they are.
    """
    if not torch.backends.mkldnn.is_available():
        return []
    packed = []
    for layer in module.modules():
        if isinstance(layer, FewRowsLinear):
            packed.append(layer)
        if type(layer) is not nn.Linear or not _is_plain(layer.weight):
            continue
        if layer.weight.dtype == torch.float32 and layer.weight.numel() >= LEAST_WEIGHTS:
            layer.__class__ = FewRowsLinear
            packed.append(layer)  # type: ignore[arg-type]
        if layer.out_features > layer.in_features:  # one row: a sixth faster, by column in memory
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return packed


def _is_plain(weight: Tensor) -> bool:
    """Return whether a weight is plain numbers on the CPU, and no quantised tensor that poses as such."""
    return weight.device.type == "cpu" and type(weight.data) is Tensor and weight.is_floating_point()
