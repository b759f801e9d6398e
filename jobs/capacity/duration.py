"""Expected time of a job on a GPU, from stated rates: a formula to plan by, not a measurement."""

from __future__ import annotations

from jobs.capacity.cluster_spec import Gpu
from jobs.capacity.memory import (
    MIB,
    PROMPT_TOKENS,
    RESPONSE_TOKENS,
    clip_parameters,
    size_of,
    training_tokens,
)
from jobs.capacity.needs import SearchNeeds, TrainingNeeds, WritingNeeds
from jobs.capacity.rates import Rates
from visvm.families.size import ModelSize
from visvm.search import METHODS

ITEM = 2  # bytes of bfloat16
CLIP_TOKENS = 77
# Candidates written at a time, against those of a stepwise search: by the tokens of docs/results/world.json.
MORE_TOKENS = {"mcts": 5.0, "oracle": 5.0}


def actor_seconds(
    config: WritingNeeds | SearchNeeds, policy: str, models: dict[str, str | None], gpu: Gpu, rates: Rates
) -> float:
    """Seconds a policy actor takes for an image, by the config of generate-triples or caption."""
    size, flops = size_of(policy), gpu.tflops * 1e12 * rates.flops_share
    rows, num_passes = _writing(config, rates)
    in_flight = _in_flight(config, size, rows)
    moved = _moved(size, in_flight, rows, rates)
    one_pass = max(
        rates.pass_ms / 1e3,
        moved / (gpu.tb_per_second * 1e12 * rates.bandwidth_share),
        in_flight * rows * 2 * size.num_parameters / flops,
    )
    seconds = 2 * size.num_parameters * size.image_tokens / flops + num_passes * one_pass / in_flight
    candidates = rates.sentences * rows
    if value := models.get("value"):
        judged = size_of(value)
        tokens = judged.image_tokens + candidates * rates.sentence_tokens
        # A quarter of the captions in flight ask together: so many passes a caption.
        passes = rates.sentences * 4 / max(in_flight, 4)
        seconds += 2 * judged.num_parameters * tokens / flops + passes * rates.pass_ms / 1e3
    if models.get("reward") and isinstance(config, SearchNeeds):
        clip = clip_parameters(str(models["reward"]))
        seconds += clip * (size.image_tokens / 4 + candidates * CLIP_TOKENS) / flops
    return seconds


def worker_seconds(config: TrainingNeeds, gpu: Gpu, rates: Rates) -> float:
    """Seconds a training worker takes for an image (train-value) or caption (finetune), an epoch.

    Forward and backward are 6 operations a parameter and token, 8 if activations are computed twice.
    """
    size = size_of(config.policy)
    operations = (8 if config.gradient_checkpointing else 6) * size.num_parameters
    return operations * training_tokens(config, size) / (gpu.tflops * 1e12 * rates.flops_share)


def _writing(config: WritingNeeds | SearchNeeds, rates: Rates) -> tuple[int, float]:
    """Rows an image, and decoding passes from its first token to its last."""
    tokens = rates.sentences * rates.sentence_tokens
    if not isinstance(config, SearchNeeds):
        return len(config.temperatures), tokens * rates.longest
    method = config.method
    if method in ("greedy", "sample"):
        return 1, tokens
    if method == "best_of_n":
        return len(config.temperatures) * config.samples_per_temperature, tokens * rates.longest
    assert method in METHODS, method
    rows = 1 + config.step_size * len(config.temperatures)
    return rows, tokens * rates.longest * MORE_TOKENS.get(method, 1)


def _in_flight(config: WritingNeeds, size: ModelSize, rows: int) -> float:
    """Images whose rows are written at a time: what the options of the config leave room for."""
    most = min(config.max_images, config.max_rows / rows)
    if config.cache_mb is None:
        return most
    row = (PROMPT_TOKENS + config.max_new_tokens) * size.token_values * ITEM
    left = config.cache_mb * MIB - config.max_rows * row
    return min(most, max(1, left / (size.image_tokens * size.token_values * ITEM)))


def _moved(size: ModelSize, in_flight: float, rows: int, rates: Rates) -> float:
    """Bytes a decoding pass reads: weights, the images' keys and values, half-written rows'."""
    texts = rows * (PROMPT_TOKENS + min(RESPONSE_TOKENS, rates.sentences * rates.sentence_tokens) / 2)
    kept = in_flight * (size.image_tokens + texts) * size.token_values
    return ITEM * (size.num_parameters + kept)
