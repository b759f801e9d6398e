"""The compiled step is one full graph and writes the same tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from tests.support import tiny
from visvm.engine.static_step import StaticStep
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request

TEMPERATURES = (0.0, 0.7)


def written(folder: Path, **options: Any) -> list[list[tuple[int, ...]]]:
    """Tokens of two captions of each of three images of unlike sizes; all end at once: one graph."""
    loading = {key: options.pop(key) for key in ("device",) if key in options}
    policy = SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=12, max_rows=8, **loading)
    policy.eos_ids.clear()
    if options:
        policy.engine.static_step = StaticStep(policy.family, **options)
    prompts = ("What is this?", "Describe it.", "Say all that you see in it.")
    shown = [tiny.image(i, width=30 + 40 * i) for i in range(3)]
    branches = policy.open([Request(*pair) for pair in zip(shown, prompts, strict=True)])
    return [[one.token_ids for one in row] for row in policy.propose(branches, TEMPERATURES, whole=True)]


def test_a_full_graph_writes_the_same_tokens(tmp_path: Path) -> None:
    """``fullgraph`` fails at any break; ``eager`` runs the traced graph without building it."""
    folder = tiny.save("llava_next", tmp_path / "policy")
    assert written(folder, backend="eager") == written(folder)


@pytest.mark.slow
def test_a_built_graph_writes_the_same_tokens(tmp_path: Path) -> None:
    folder = tiny.save("llava_next", tmp_path / "policy")
    assert written(folder, backend="inductor") == written(folder)


@pytest.mark.gpu
def test_cuda_graphs_write_the_same_tokens(tmp_path: Path) -> None:
    folder = tiny.save("llava_next", tmp_path / "policy")
    compiled = written(folder, device="cuda", mode="reduce-overhead")
    assert compiled == written(folder, device="cuda")


def test_models_with_a_state_per_row_are_refused() -> None:
    family = SimpleNamespace(has_states=True, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="state for each row"):
        StaticStep(cast(Any, family))
