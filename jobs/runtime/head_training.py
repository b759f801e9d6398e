"""Training of a head: Ray Data actors gather the policy's states, this process adds them up and solves."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch

from actors.batch.states import GatherStates
from jobs.capacity.memory import actor_bytes
from jobs.capacity.preflight import Demand, check
from jobs.runtime import ray_setup
from jobs.train_value import TrainValueConfig
from visvm import storage
from visvm.policy import PolicyOptions
from visvm.training.cards import label
from visvm.training.head_card import head_card
from visvm.training.head_fit import HeadFitter, StatedResponse
from visvm.training.rollouts import responses_of
from visvm.value.head import READS, HeadConfig, ValueHead

BATCH = 32  # rows of rollouts in a call of an actor
logger = logging.getLogger(__name__)


def train(config: TrainValueConfig, files: Sequence[str]) -> dict[str, Any]:
    """Write OUT/model, a head on the states of the policy; return the metrics."""
    started = time.perf_counter()
    loading = ray_setup.loading(config.device, "auto")
    policy = {"name": config.policy, **loading}
    is_gpu = loading["device"] == "cuda"
    options = {
        **policy,
        **{name: getattr(PolicyOptions(), name) for name in ("max_new_tokens", "max_images")},
    }
    check(
        [
            Demand(
                "GatherStates",
                1,
                config.num_workers,
                cpus=1,
                gpus=float(is_gpu),
                parts=actor_bytes({"policy": {**options, "max_rows": BATCH, "cache_mb": None}}),
                fewer="--num-workers",
            )
        ]
    )
    states = ray.data.read_parquet(list(files)).map_batches(
        GatherStates,
        fn_constructor_args=(policy,),
        batch_size=BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=config.num_workers),
        num_cpus=1,
        num_gpus=float(is_gpu),
    )
    fitter = HeadFitter(gamma=config.gamma, ridge=config.ridge, held_out=config.held_out)
    fingerprints, images = set[str](), set[str]()
    batches: Any = states.iter_batches(batch_size=None, batch_format="pyarrow")
    for batch in batches:
        fingerprints |= set(batch["fingerprint"].to_pylist())
        for image_id, responses in stated_responses(batch):
            images.add(image_id)
            fitter.add(_draw(image_id, config.seed), responses)
    head = _head(config, fitter, fingerprints)
    metrics = {
        "num_images": len(images),
        "num_sentences": len(fitter.rewards),
        "reward_centre": head.config.reward_centre,
        "reward_scale": head.config.reward_scale,
        "held_out": fitter.evaluate(head),
        "seconds": time.perf_counter() - started,
    }
    with storage.new_folder(storage.join(config.out, "model")) as folder:
        head.save_pretrained(folder)
        (folder / "README.md").write_text(head_card(config.policy, config, head.config, metrics))
    return metrics


def stated_responses(batch: pa.Table) -> Iterator[tuple[str, list[StatedResponse]]]:
    """Yield the image id and the responses, with their states, of each row of STATES."""
    columns = {reads: batch[f"{reads}_states"] for reads in READS}
    for i, row in enumerate(batch.select(["id", "image_id", "responses"]).to_pylist()):
        responses = responses_of(row)
        lengths = [len(one.sentences) for one in responses]
        states = {
            reads: torch.from_numpy(np.array(column[i].values)).view(sum(lengths), -1).split(lengths)
            for reads, column in columns.items()
        }
        yield (
            row["image_id"],
            [
                StatedResponse(one, {reads: states[reads][j] for reads in READS})
                for j, one in enumerate(responses)
            ],
        )


def _head(config: TrainValueConfig, fitter: HeadFitter, fingerprints: set[str]) -> ValueHead:
    """Return the head; its centre and scale are those given, or the mean and deviation of the rewards.

    Raises:
        ValueError: there is nothing to learn from.
    """
    if not fingerprints:
        raise ValueError("no image of the rollouts could be read: see the warnings above")
    assert len(fingerprints) == 1, "all actors load one policy"
    weights, deviation = fitter.weights(), float(np.std(fitter.rewards))
    centre, scale = config.reward_centre, config.reward_scale
    head = HeadConfig(
        policy=label(config.policy),
        fingerprint=fingerprints.pop(),
        hidden_size=len(weights["prefix"]) - 1,
        gamma=config.gamma,
        reward_centre=float(np.mean(fitter.rewards)) if centre == "mean" else centre,
        reward_scale=(deviation if deviation > 1e-6 else 1.0) if scale == "std" else scale,
    )
    return ValueHead(head, weights)


def _draw(image_id: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on the image and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:6]) / 2**48
