"""Expected time of a job on a GPU by a formula from stated rates; it is not a measurement."""

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
# Tokens relative to a stepwise search, as in docs/results/world.json and heads.json.
MORE_TOKENS = {"mcts": 5.0, "mcts_value": 5.0, "oracle": 5.0, "particles": 2.0}


def actor_seconds(
    config: WritingNeeds | SearchNeeds, policy: str, models: dict[str, str | None], gpu: Gpu, rates: Rates
) -> float:
    """Return the seconds that a policy actor takes per image, given the config of its job."""
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
        # On average a quarter of the captions in flight are scored in one pass.
        passes = rates.sentences * 4 / max(in_flight, 4)
        seconds += 2 * judged.num_parameters * tokens / flops + passes * rates.pass_ms / 1e3
    if models.get("reward") and isinstance(config, SearchNeeds):
        clip = clip_parameters(str(models["reward"]))
        seconds += clip * (size.image_tokens / 4 + candidates * CLIP_TOKENS) / flops
    return seconds


def worker_seconds(config: TrainingNeeds, gpu: Gpu, rates: Rates) -> float:
    """Return the seconds per epoch that a training worker takes for an image or a caption.

    The example is an image in train-value and a caption in finetune. Forward and backward are 6 operations
    per parameter and token, or 8 if activations are computed twice.
    """
    size = size_of(config.policy)
    operations = (8 if config.gradient_checkpointing else 6) * size.num_parameters
    return operations * training_tokens(config, size) / (gpu.tflops * 1e12 * rates.flops_share)


def _writing(config: WritingNeeds | SearchNeeds, rates: Rates) -> tuple[int, float]:
    """Return the rows per image, and the decoding passes from its first token to its last."""
    tokens = rates.sentences * rates.sentence_tokens
    if not isinstance(config, SearchNeeds):
        return len(config.temperatures), tokens * rates.longest
    method = config.method
    if method in ("greedy", "sample"):
        return 1, tokens
    if method in ("best_of_n", "best_of_n_value"):
        return len(config.temperatures) * config.samples_per_temperature, tokens * rates.longest
    assert method in METHODS, method
    rows = 1 + config.step_size * len(config.temperatures)
    return rows, tokens * rates.longest * MORE_TOKENS.get(method, 1)


def _in_flight(config: WritingNeeds, size: ModelSize, rows: int) -> float:
    """Return the images whose rows are written at a time, as the config's options allow."""
    most = min(config.max_images, config.max_rows / rows)
    if config.cache_mb is None:
        return most
    row = (PROMPT_TOKENS + config.max_new_tokens) * size.token_values * ITEM
    left = config.cache_mb * MIB - config.max_rows * row
    return min(most, max(1, left / (size.image_tokens * size.token_values * ITEM)))


def _moved(size: ModelSize, in_flight: float, rows: int, rates: Rates) -> float:
    """Return the bytes that a decoding pass reads: weights, and keys and values of images and rows."""
    texts = rows * (PROMPT_TOKENS + min(RESPONSE_TOKENS, rates.sentences * rates.sentence_tokens) / 2)
    kept = in_flight * (size.image_tokens + texts) * size.token_values
    return ITEM * (size.num_parameters + kept)
