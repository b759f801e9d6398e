"""Heads on a policy's own hidden states: reward, value and length without a second network.

A head reads the last hidden state s of a sentence's last token, which the policy has computed anyway, and
gives three numbers, each linear in s:

    r    the reward of the sentence
    F    the future: the discounted rewards of the sentences after it, F(s_i) = r_{i+1} + gamma * F(s_{i+1})
    M    the discounted number of sentences after it: the same with rewards of 1

so V = (r - c) / scale + gamma * (F - c * M) / scale, with any centre c, and V = (r - c) / scale where the
caption ends. There are two sets of weights: for the state behind the sentence in its caption ("prefix") and
for the state behind image and sentence alone ("sentence").
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from visvm import storage
from visvm.config import Config, validate
from visvm.storage import mirror

Reads = Literal["prefix", "sentence"]
READS: tuple[Reads, ...] = ("prefix", "sentence")
OUTPUTS = 3  # reward, future, number of sentences to come
MODEL_TYPE = "value_head"
_SAMPLES = 16  # values of each weight that enter a fingerprint


class HeadConfig(Config):
    """What a head was trained on; ``fingerprint`` is that of its policy's weights."""

    model_type: Literal["value_head"] = "value_head"
    policy: str
    fingerprint: str
    hidden_size: int
    gamma: float
    reward_centre: float
    reward_scale: float


class ValueHead:
    """The weights of a head by what they read: [hidden + 1, 3] float32, the bias last."""

    def __init__(self, config: HeadConfig, weights: dict[Reads, Tensor]) -> None:
        self.config, self.weights = config, weights

    def outputs(self, states: Tensor, reads: Reads) -> Tensor:
        """Return r, F and M of hidden states [n, hidden]: [n, 3] float32."""
        weight = self.weights[reads].to(states.device)
        return states.float() @ weight[:-1] + weight[-1]

    def values(self, outputs: Tensor, ended: Tensor, *, centre: float) -> Tensor:
        """Return V [n] from ``outputs`` [n, 3]; ``ended`` [n] tells where nothing follows."""
        reward, future, count = outputs.unbind(-1)
        rest = (future - centre * count).masked_fill(ended, 0)
        return (reward - centre + self.config.gamma * rest) / self.config.reward_scale

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "model.safetensors").write_bytes(
            save({reads: weight for reads, weight in self.weights.items()})
        )
        Path(folder, "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, name: str) -> ValueHead:
        """Load a directory (a path or a URI).

        Raises:
            ValueError: it holds no head.
        """
        config, folder = head_config(name), mirror.local(name)
        if config is None:
            raise ValueError(f"{name!r} holds no head of train-value --kind head")
        weights = load(Path(folder, "model.safetensors").read_bytes())
        shape = (config.hidden_size + 1, OUTPUTS)
        if {key: value.shape for key, value in weights.items()} != dict.fromkeys(READS, shape):
            raise ValueError(
                f"{name!r}: model.safetensors does not fit its config.json; train the head again"
            )
        return cls(config, {reads: weights[reads] for reads in READS})


def head_config(name: str) -> HeadConfig | None:
    """Return the configuration of the head in a directory, or None if it holds something else.

    Raises:
        ValueError: it is a head whose config.json cannot be used.
    """
    try:
        data = json.loads(storage.read(storage.join(name, "config.json")))
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("model_type") != MODEL_TYPE:
        return None
    try:
        return validate(HeadConfig, data)
    except ValueError as error:
        raise ValueError(f"head {name!r}: config.json: {error}") from None


def fingerprint(model: Any) -> str:
    """Return a hash of a model's weights: of some values of each, so that it is quick for any size.

    The values are compared in bfloat16, so that a policy keeps its fingerprint in any precision.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        places = torch.linspace(0, weight.numel() - 1, _SAMPLES, dtype=torch.float64).long()
        sample = weight.detach()[torch.unravel_index(places.to(weight.device), weight.shape)]
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(sample.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
