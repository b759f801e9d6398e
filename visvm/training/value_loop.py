"""The training loop of a value model, the same on one worker or many.

The state of a run consists of weights, optimiser state and step. Order, learning rate and random numbers
of a step derive from (seed, step), so a resumed run equals one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from peft import inject_adapter_in_model

from visvm.training.config import ValueTraining, read_deepspeed
from visvm.training.diagnostics import Sentence, diagnose, sentences
from visvm.training.diverged import check_losses, check_state
from visvm.training.lora import check_base, lora_config, merged_state, targets
from visvm.training.parallel import Parallel, Replicated, Sharded, all_sum, num_workers, rank
from visvm.training.rollouts import Loader, MicroBatch, Rollout, plan_batches, reward_statistics, worker_share
from visvm.training.td import td_loss, td_target
from visvm.training.text_packing import Packer
from visvm.value import VisionValueModel

PREFETCH_STEPS = 2
NUM_LOGS = 400


class ValueTrainer:
    """Trains on ``train`` and evaluates on ``held_out``; one instance per worker."""

    def __init__(
        self,
        model: VisionValueModel,
        config: ValueTraining,
        *,
        train: Sequence[Rollout],
        held_out: Sequence[Rollout],
        device: torch.device,
    ) -> None:
        self.config, self.gamma = config, model.config.gamma
        self.parallel = _parallel(model, config, device)
        packer = Packer(model.reader)
        cache = config.pixel_cache_mb
        self.train = Loader(train, model.family, packer, cache_mb=cache)
        self.held_out = Loader(held_out, model.family, packer, cache_mb=cache // 10)
        self.sizes = [rollout.size for rollout in train]
        self.steps_per_epoch = -(-len(train) // config.batch_size)
        self.num_steps = self.steps_per_epoch * config.epochs
        self.step = 0

    def run(self, *, log: Callable[[dict[str, Any]], None], checkpoint: Callable[[], None]) -> None:
        """Train from ``self.step`` to the end; call ``log`` on rank 0 and ``checkpoint`` on every worker.

        Raises:
            Diverged: a loss is NaN or infinite.
        """
        every = _every(self.config.save_steps, self.steps_per_epoch)
        interval = max(1, self.num_steps // NUM_LOGS)
        window, started = torch.zeros(3, device=self.parallel.device), time.monotonic()
        for parts in _prefetch(self._parts, range(self.step, self.num_steps)):
            window += self._train_step(parts)
            self.step += 1
            if self.step % interval == 0:
                entry = self._log_entry(all_sum(window), time.monotonic() - started)
                check_losses(entry, self.step)
                window, started = torch.zeros_like(window), time.monotonic()
                if rank() == 0:
                    log(entry)
            if self.step % every == 0 or self.step % self.steps_per_epoch == 0:
                check_losses(self._log_entry(all_sum(window.clone()), 1.0), self.step)
                self._evaluate(log)
                checkpoint()

    def _train_step(self, parts: Sequence[MicroBatch]) -> torch.Tensor:
        """Update the weights once; return this worker's sums [TD loss of V, TD loss of N, pairs]."""
        torch.manual_seed(_seed(self.config.seed, self.step, rank()))
        parallel, device = self.parallel, self.parallel.device
        count = torch.tensor(float(sum(len(part.pairs) for part in parts)), device=device)
        total = all_sum(count.clone()).clamp_min(1)
        sums = torch.zeros(2, device=device)
        for i, part in enumerate(parts, 1):
            with parallel.accumulate(last=i == len(parts)):
                outputs = parallel(part.inputs, part.packed.to(device))
                losses = td_loss(outputs, part.pairs.to(device), gamma=self.gamma)
                # Gradients are averaged over workers; this gives the mean over all pairs.
                parallel.backward(losses.sum() * num_workers() / total)
            sums += losses.detach()
        parallel.step(self._learning_rate(self.step))
        return torch.cat([sums, count[None]])

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate: a linear warm-up, then a cosine down to zero."""
        warmup = max(1, round(self.config.warmup * self.num_steps))
        progress = max(0.0, (step - warmup) / max(1, self.num_steps - warmup))
        return self.config.learning_rate * min((step + 1) / warmup, (1 + math.cos(math.pi * progress)) / 2)

    def _parts(self, step: int) -> list[MicroBatch]:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = plan_batches(
            self.sizes, batch_size=self.config.batch_size, seed=_seed(self.config.seed, epoch)
        )
        return [self.train.load(part) for part in self._share(order[index])]

    def _share(self, batch: Sequence[int]) -> list[list[int | None]]:
        size = self.config.micro_batch_size
        return worker_share(batch, rank=rank(), num_workers=num_workers(), micro_batch_size=size)

    def _log_entry(self, window: torch.Tensor, seconds: float) -> dict[str, Any]:
        value, length, pairs = window.tolist()
        return {
            "step": self.step,
            "num_steps": self.num_steps,
            "epoch": self.step / self.steps_per_epoch,
            "td_loss": value / max(pairs, 1),
            "td_loss_length": length / max(pairs, 1),
            "learning_rate": self._learning_rate(self.step - 1),
            "sentences_per_second": pairs / seconds,
        }

    def _evaluate(self, log: Callable[[dict[str, Any]], None]) -> None:
        metrics = self.evaluate()
        if metrics is not None:
            log({"step": self.step, "epoch": self.step / self.steps_per_epoch, "held_out": metrics})

    @torch.no_grad()
    def evaluate(self) -> dict[str, Any] | None:
        """Return the diagnostics on the held-out images on rank 0; None elsewhere, or without such images."""
        rollouts, parallel = self.held_out.rollouts, self.parallel
        rows: list[Sentence] = []
        outputs, errors = [np.zeros((0, 2))], [np.zeros((0, 2))]
        self.model.eval()
        batches = plan_batches([one.size for one in rollouts], batch_size=self.config.batch_size)
        for part in [part for batch in batches for part in self._share(batch)]:
            data = self.held_out.load(part)
            predicted = parallel(data.inputs, data.packed.to(parallel.device)).float().cpu()
            target = td_target(predicted, data.pairs, gamma=self.gamma)
            outputs.append(predicted[data.pairs.state].double().numpy())
            errors.append((target - predicted[data.pairs.state]).square().double().numpy())
            for i in part:
                if i is not None and rollouts[i].image_id not in self.held_out.failed:
                    rows += sentences(rollouts[i], i, self.model.config)
        self.model.train()
        gathered = _gather((rows, np.concatenate(outputs), np.concatenate(errors)))
        all_rows, all_outputs, all_errors = zip(*gathered, strict=True)
        if rank() or not any(all_rows):
            return None
        return diagnose(list(chain(*all_rows)), np.concatenate(all_outputs), np.concatenate(all_errors))

    @property
    def model(self) -> VisionValueModel:
        """The model without the wrappers of parallel training."""
        return self.parallel.module

    def summary(self) -> dict[str, Any]:
        """Return how much was learned in how many steps, and the reward's units; call it on every worker."""
        failed = set(chain(*_gather([*self.train.failed, *self.held_out.failed])))
        learned = [one for one in self.train.rollouts if one.image_id not in failed]
        return {
            "num_images": len(learned),
            "num_held_out_images": sum(one.image_id not in failed for one in self.held_out.rollouts),
            "num_unreadable_images": len(failed),
            "num_sentences": sum(one.num_pairs for one in learned),
            "num_steps": self.num_steps,
            "reward_centre": self.model.config.reward_centre,
            "reward_scale": self.model.config.reward_scale,
        }

    def save(self, folder: Path) -> None:
        """Write a checkpoint; call it on every worker."""
        self.parallel.save(folder)
        if rank() == 0:
            (folder / "step").write_text(str(self.step))

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint."""
        self.parallel.load(folder)
        self.step = int((folder / "step").read_text())

    def export(self, folder: Path) -> None:
        """Write the model directory; call it on every worker."""
        state = self.parallel.full_state()
        if state is None:
            return
        check_state(state)
        if self.config.lora is not None:
            state = merged_state(state, self.config.lora)
        if self.config.bf16:  # as in training; the head stays in float32
            state = {key: t if key.startswith("head.") else t.bfloat16() for key, t in state.items()}
        self.model.save_pretrained(folder, state_dict=state)


def build(policy: str, train: Sequence[Rollout], config: ValueTraining) -> VisionValueModel:
    """Return a value model initialised from the policy, with the centre and scale of the training rewards."""
    check_base(policy, config.lora)
    mean, deviation = reward_statistics(train)
    model = VisionValueModel.from_policy(
        policy,
        **config.model_dump(include={"state", "predict", "gamma", "mark_end", "terminal"}),
        reward_centre=mean if config.reward_centre == "mean" else config.reward_centre,
        reward_scale=deviation if config.reward_scale == "std" else config.reward_scale,
    )
    if config.lora is None:
        model.family.vision.requires_grad_(config.train_vision)
    else:
        names = targets(model.base, model.family, vision=config.train_vision)
        inject_adapter_in_model(lora_config(config.lora, names), model.base)
    if config.gradient_checkpointing:
        if model.family.has_states:
            raise ValueError("gradient_checkpointing: not supported for models with recurrent layers")
        model.base.activation_checkpointing_enable()
    return model.train()


def shard_while_loading(config: ValueTraining) -> Any:
    """Make ``build`` shard the model under ZeRO-3 while it loads; keep the returned object until then."""
    if config.deepspeed is None:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(
        {"train_micro_batch_size_per_gpu": 1, **(read_deepspeed(config.deepspeed) or {})}
    )


def _parallel(model: VisionValueModel, config: ValueTraining, device: torch.device) -> Parallel:
    common: dict[str, Any] = config.model_dump(include={"bf16", "clip", "weight_decay"})
    if config.deepspeed is None:
        return Replicated(model, device=device, **common)
    return Sharded(model, config=read_deepspeed(config.deepspeed) or {}, **common)


def _prefetch(make: Callable[[int], list[MicroBatch]], steps: range) -> Iterator[list[MicroBatch]]:
    """Yield ``make(step)`` for each step, computed in a thread up to PREFETCH_STEPS steps in advance."""
    with ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(make, step) for step in steps[:PREFETCH_STEPS])
        for step in steps:
            if step + PREFETCH_STEPS < steps.stop:
                pending.append(pool.submit(make, step + PREFETCH_STEPS))
            yield pending.popleft().result()


def _every(setting: float, steps_per_epoch: int) -> int:
    return int(setting) if setting >= 1 else max(1, round(setting * steps_per_epoch))


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _gather(mine: Any) -> list[Any]:
    if not dist.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * num_workers()
    dist.all_gather_object(everyone, mine)
    return everyone
