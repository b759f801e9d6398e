"""Memory of actors and training workers by formula, in bytes, from configurations alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from jobs.capacity.needs import TrainingNeeds
from visvm.benchmark.random_models import configuration
from visvm.benchmark.sizes import SIZES
from visvm.engine.engine import PREFILL_BATCH
from visvm.engine.image_store import ROUND
from visvm.families import check_supported, read_config
from visvm.families.size import ModelSize, model_size
from visvm.models import resolve
from visvm.policy import MIB
from visvm.reward import parse_name
from visvm.server_policy.names import is_server
from visvm.storage import mirror
from visvm.value import check_value_model
from visvm.value.head import head_config
from visvm.value.scorer import CACHE_MB

PROMPT_TOKENS = 64  # of the chat template and the prompt, at most
RESPONSE_TOKENS = 200  # 8.2 sentences of 25 tokens, rounded
UNKNOWN_CLIP = 880_000_000  # parameters, where open_clip does not know the architecture: SigLIP so400m's
SECOND_GPU = "cuda:1"  # the value model's device if its actor has two GPUs
# Published models whose size is known without asking the hub.
KNOWN = {"llava-hf/llava-v1.6-mistral-7b-hf": "7b", "Qwen/Qwen2-VL-7B-Instruct": "7b-qwen2-vl"}


@cache
def size_of(name: str) -> ModelSize:
    """Return the size of a policy or value model, given its name in a job's config.

    Raises:
        ValueError: the model cannot be found, or its family is not supported.
    """
    if name in KNOWN:
        return model_size(configuration(SIZES[KNOWN[name]]))
    name = mirror.settings(name)
    if (Path(name) / "config.json").is_file() and _is_value(Path(name)):
        return model_size(check_value_model(name).base_config)
    check_supported(config := read_config(resolve(name, "policy")))  # a plan needs no weights
    return model_size(config)


@cache
def clip_parameters(name: str) -> int:
    """Return the number of parameters of a reward model; no weights are loaded."""
    from open_clip import get_model_config
    from open_clip.model import CLIP, CustomTextCLIP

    name = mirror.settings(name)
    architecture, _ = parse_name(name)
    config = get_model_config(architecture)
    if architecture.startswith("local-dir:"):
        config = json.loads((Path(name) / "open_clip_config.json").read_text())["model_cfg"]
    if config is None:
        return UNKNOWN_CLIP
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    with torch.device("meta"):
        return sum(weight.numel() for weight in kind(**config).parameters())


def actor_bytes(arguments: Mapping[str, Any]) -> list[dict[str, float]]:
    """Return the bytes that an actor keeps on each device, by part.

    ``arguments`` are the keywords of the actor's class. A value model on "cuda:1" is on the second device.
    """
    models = {**arguments, **arguments.get("scorer", {})}
    parts: list[dict[str, float]] = [{}]
    if (policy := models.get("policy")) and not is_server(policy["name"]):
        parts[0] |= _policy(size_of(policy["name"]), policy)
    own = {name: models.get(name) for name in ("reward", "value")}
    separate = {name: one for name, one in own.items() if one and head_config(one["name"]) is None}
    if reward := separate.get("reward"):
        parts[0]["reward weights"] = clip_parameters(reward["name"]) * _itemsize(reward)
    if value := separate.get("value"):
        if value["device"] == SECOND_GPU:
            parts.append({})
        parts[-1] |= _value(size_of(value["name"]), value)
    return parts


def worker_bytes(config: TrainingNeeds) -> dict[str, float]:
    """Return the bytes that a training worker keeps, by part.

    Weights, gradients and Adam's two moments are float32: 16 bytes per parameter. ZeRO stage 3 shards all
    of them over the workers, stage 2 gradients and moments, stage 1 moments; without DeepSpeed none are.
    """
    size, num = size_of(config.policy), config.num_workers
    cut = {0: 0, 1: 8, 2: 12, 3: 16}[_stage(config.deepspeed)]
    state = size.num_parameters * (16 - cut + cut / num)
    if config.lora is not None:  # gradients and moments are those of a percent of the weights
        state = size.num_parameters * 4 / (num if cut == 16 else 1)
    tokens = config.micro_batch_size * training_tokens(config, size)
    return {"weights and optimiser": state, "activations": _activations(size, tokens, config)}


def training_tokens(config: TrainingNeeds, size: ModelSize) -> int:
    """Return the tokens of a training example: an image with all its responses, or one caption."""
    texts = 5 * RESPONSE_TOKENS if config.learns == "values" else RESPONSE_TOKENS + PROMPT_TOKENS
    return size.image_tokens + texts


def _policy(size: ModelSize, options: Mapping[str, Any]) -> dict[str, float]:
    item = _itemsize(options)
    images = options["max_images"] * size.image_tokens
    rows = options["max_rows"] * _rounded(PROMPT_TOKENS + options["max_new_tokens"])
    kept = (images + rows) * size.token_values * item
    kept += (options["max_images"] + options["max_rows"]) * size.state_bytes
    if options["cache_mb"] is not None:
        kept = min(kept, options["cache_mb"] * MIB)
    return {
        "policy weights": size.num_parameters * item,
        "images and rows": kept,
        "prefill": _pass(size, min(PREFILL_BATCH, options["max_images"]) * size.image_tokens) * item,
    }


def _value(size: ModelSize, options: Mapping[str, Any]) -> dict[str, float]:
    """Return the value model's bytes; on the policy's GPU its prefill takes turns with the policy's."""
    item = _itemsize(options)
    alone = _pass(size, min(PREFILL_BATCH, options["max_images"]) * size.image_tokens) * item
    kept = options["max_images"] * (size.image_tokens * size.token_values * item + size.state_bytes)
    return {
        "value weights": size.num_parameters * item,
        "value images": min(kept, options.get("cache_mb", CACHE_MB) * MIB),
        **({"value prefill": alone} if options["device"] == SECOND_GPU else {}),
    }


def _pass(size: ModelSize, tokens: int) -> int:
    """Return the numbers kept in a layer's forward pass: three MLP products and eight of hidden size."""
    return tokens * (3 * size.intermediate + 8 * size.hidden)


def _activations(size: ModelSize, tokens: int, config: TrainingNeeds) -> float:
    item = 2 if config.bf16 else 4
    layer = _pass(size, tokens) * item
    kept = size.num_layers * tokens * size.hidden * item if config.gradient_checkpointing else 0
    logits = 0 if config.learns == "values" else 10 * tokens * size.vocabulary
    return logits + (kept + layer if config.gradient_checkpointing else size.num_layers * layer)


def _stage(deepspeed: dict[str, Any] | str | None) -> int:
    from visvm.training.config import read_deepspeed

    return ((read_deepspeed(deepspeed) or {}).get("zero_optimization") or {}).get("stage", 0)


def _is_value(folder: Path) -> bool:
    return json.loads((folder / "config.json").read_text()).get("model_type") == "vision_value"


def _itemsize(options: Mapping[str, Any]) -> int:
    return getattr(torch, options.get("dtype", "float32")).itemsize


def _rounded(tokens: int) -> int:
    return -(-tokens // ROUND) * ROUND
