"""Data-parallel training behind one interface: replicated (DDP) or sharded (DeepSpeed ZeRO)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_workers() -> int:
    """Return the number of training processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_sum(values: Tensor) -> Tensor:
    """Sum ``values`` over all workers, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


class Replicated:
    """Every worker holds the whole model; gradients are averaged by DistributedDataParallel."""

    def __init__(
        self, model: nn.Module, *, device: torch.device, bf16: bool, clip: float, weight_decay: float
    ) -> None:
        self.module: Any = model.to(device)
        self.device, self.bf16, self.clip = device, bf16, clip
        # The last layer of the vision encoder may be unused (LLaVA reads the one before it).
        self.wrapped: Any = (
            nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
            if num_workers() > 1
            else model
        )
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=weight_decay, fused=True)

    def __call__(self, *args: Any) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self.wrapped(*args)

    @contextmanager
    def accumulate(self, *, last: bool) -> Iterator[None]:
        """Wrap forward and backward of one micro-batch; gradients are communicated with the last one."""
        with nullcontext() if last or self.wrapped is self.module else self.wrapped.no_sync():
            yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this micro-batch."""
        loss.backward()

    def step(self, learning_rate: float) -> None:
        """Clip the gradients, update the weights and clear the gradients."""
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write weights and optimiser state for ``load``; call it on every worker."""
        if rank() == 0:
            state = {"model": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(state, folder / "state.pt")

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote."""
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def full_state(self) -> dict[str, Tensor] | None:
        """Return all weights on rank 0 (for ``save_pretrained``), None elsewhere."""
        return self.module.state_dict() if rank() == 0 else None


class Sharded:
    """DeepSpeed shards weights, gradients and optimiser state over the workers, as its config says."""

    def __init__(
        self, model: nn.Module, *, config: dict[str, Any], bf16: bool, clip: float, weight_decay: float
    ) -> None:
        import deepspeed

        settings = {
            "train_micro_batch_size_per_gpu": 1,  # used only in DeepSpeed's log
            "gradient_accumulation_steps": 1,
            "gradient_clipping": clip,
            "zero_allow_untested_optimizer": True,
            "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
            **config,
        }
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=weight_decay)
        self.engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
        self.module: Any = self.engine.module
        self.device = self.engine.device

    def __call__(self, *args: Any) -> Tensor:
        return self.engine(*args)

    @contextmanager
    def accumulate(self, *, last: bool) -> Iterator[None]:
        """Wrap forward and backward of one micro-batch; gradients are communicated with the last one."""
        self.engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this micro-batch."""
        self.engine.backward(loss)

    def step(self, learning_rate: float) -> None:
        """Clip the gradients, update the weights and clear the gradients."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()

    def save(self, folder: Path) -> None:
        """Write the shards of this worker for ``load``; call it on every worker."""
        self.engine.save_checkpoint(str(folder), tag="shards")

    def load(self, folder: Path) -> None:
        """Restore what ``save`` wrote with the same number of workers."""
        self.engine.load_checkpoint(str(folder), tag="shards")

    def full_state(self) -> dict[str, Tensor] | None:
        """Return all weights on rank 0, None elsewhere; they are gathered one by one to save memory."""
        import deepspeed

        state = self.module.state_dict()  # its names and buffers; the weights are empty here
        for name, parameter in self.module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if rank() == 0:
                    state[name] = parameter.detach().cpu().clone()
        return state if rank() == 0 else None


Parallel = Replicated | Sharded
