"""A self-test at load: what the engine computes equals the model's own cached ``generate``.

It cannot see windows longer than its own texts; ``tests/visvm/test_more_families.py`` tests those.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from visvm.engine.sequence_batch import SequenceBatch
from visvm.records import DecodedImage

if TYPE_CHECKING:
    from visvm.engine.engine import Engine

NUM_TOKENS = 20
PROMPTS = ("Describe the image.", "What is this photo about?")
SHAPES = ((96, 64), (64, 112))
# Differences of log-probabilities: the largest in float32 (right families stay below 1e-3, wrong ones exceed
# 1), the median in half precision (right: below 0.1, wrong: above 0.35).
MOST, MOST_MEDIAN = 0.05, 0.2


@dataclass(frozen=True)
class Difference:
    """How far log-probabilities of forced tokens are from ``generate``'s."""

    largest: float
    median: float

    def is_exact(self, dtype: torch.dtype) -> bool:
        """Whether it is rounding alone."""
        is_whole = dtype in (torch.float32, torch.float64)
        return self.largest <= MOST if is_whole else self.median <= MOST_MEDIAN


class _Forced(transformers.LogitsProcessor):
    """Lets ``generate`` write given tokens."""

    def __init__(self, tokens: list[int], start: int) -> None:
        self.tokens, self.start = tokens, start

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.tokens[input_ids.shape[1] - self.start]] = 0
        return forced


@torch.inference_mode()
def compare(model: Any, engine: Engine, head: Any) -> Difference:
    """Return the difference over forced tokens behind two images and two prompts each."""
    rng = np.random.default_rng(0)
    special = set(engine.family.tokenizer.all_special_ids) | {engine.family.image_token_id}
    ordinary = [i for i in range(min(len(engine.family.tokenizer), 1000)) if i not in special]
    errors = []
    for shape in SHAPES:
        pixels = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for prompt in PROMPTS:
            asked = DecodedImage("", "", "", pixels), prompt
            tokens = rng.choice(ordinary, NUM_TOKENS).tolist()
            errors.append((_ours(engine, head, asked, tokens) - _theirs(model, engine, asked, tokens)).abs())
    every = torch.cat(errors)
    return Difference(every.max().item(), every.median().item())


def _theirs(model: Any, engine: Engine, asked: tuple[DecodedImage, str], tokens: list[int]) -> Tensor:
    weight = engine.family.base.get_input_embeddings().weight
    given = {
        key: x.to(weight.device, weight.dtype if x.is_floating_point() else x.dtype)
        for key, x in engine.family.inputs(*asked).items()
    }
    out = model.generate(
        **given,
        max_new_tokens=len(tokens),
        min_new_tokens=len(tokens),
        do_sample=False,
        logits_processor=[_Forced(tokens, given["input_ids"].shape[1])],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return _log_probs(torch.cat(out.logits), tokens)


def _ours(engine: Engine, head: Any, asked: tuple[DecodedImage, str], tokens: list[int]) -> Tensor:
    image, prompt = asked
    (prefix,) = engine.prefill([image], [prompt])
    ids, kv = engine.family.prompt_ids(prompt), engine.new_kv(1, 0)
    state = prefix.state[None]
    if ids:
        hidden, kv = engine.read([prefix], [ids])
        state = hidden[:, -1]
    rows = SequenceBatch(engine, max_rows=1)
    rows.add(prefix, kv, capacity=len(ids) + len(tokens))
    states = [state, *(rows.step([token]) for token in tokens[:-1])]
    return _log_probs(head(torch.cat(states)), tokens)


def _log_probs(logits: Tensor, tokens: list[int]) -> Tensor:
    chosen = torch.tensor(tokens, device=logits.device)[:, None]
    return logits.float().log_softmax(dim=-1).gather(1, chosen)[:, 0].cpu()


def check(model: Any, engine: Engine, head: Any) -> Difference:
    """Return the difference, if it is rounding alone.

    Raises:
        ValueError: the engine's log-probabilities are not the model's.
    """
    found = compare(model, engine, head)
    if not found.is_exact(model.dtype):
        raise ValueError(
            f"model type {model.config.model_type!r} is not computed exactly: log-probabilities differ from"
            f" transformers' own generate by up to {found.largest:.3g} (median {found.median:.3g})"
        )
    return found


def check_once(model: Any, engine: Engine, head: Any) -> None:
    """Check a model whose configuration has not passed yet on this machine (kept in VISVM_CACHE).

    Raises:
        ValueError: the engine's log-probabilities are not the model's.
    """
    folder = Path(os.environ.get("VISVM_CACHE") or "~/.cache/visvm").expanduser() / "selftest"
    passed = folder / _key(model, engine)
    if passed.exists():
        return
    found = check(model, engine, head)
    engine.clear()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        passed.write_text(f"{found.largest:.3g}\n")
    except OSError:
        pass  # a machine without a place for it tests again


def _key(model: Any, engine: Engine) -> str:
    family = engine.family
    parts = (
        model.config.to_json_string(use_diff=False),
        str(family.processor.chat_template),
        str(sorted(family.template.items())),
        str(model.dtype),
        transformers.__version__,
        torch.__version__,
    )
    own = sorted(path for name in ("engine", "families") for path in (_PACKAGE / name).glob("*.py"))
    texts = [part.encode() for part in parts] + [path.read_bytes() for path in own]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:32]


_PACKAGE = Path(__file__).parents[1]
