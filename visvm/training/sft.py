"""Supervised fine-tuning of a policy on captions: all weights, with the loss on the caption's tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from visvm import storage
from visvm.families import Family
from visvm.families.loading import load_model
from visvm.families.weights import load_weights
from visvm.training.captions import CaptionExample, Captions, Collator, split
from visvm.training.cards import front_matter, label
from visvm.training.config import CardOptions, SftConfig, read_deepspeed
from visvm.training.diverged import check_state
from visvm.training.lora import check_base, lora_config, targets


def training_arguments(config: SftConfig, *, output: Path, num_workers: int, use_cpu: bool) -> Any:
    """Return the arguments of Hugging Face's Trainer; ``output`` is this worker's folder for checkpoints."""
    values = argument_values(config, output=output, num_workers=num_workers, use_cpu=use_cpu)
    return TrainingArguments(**values)


def argument_values(config: SftConfig, *, output: Path, num_workers: int, use_cpu: bool) -> dict[str, Any]:
    """Return the arguments that every trainer of a policy shares."""
    return dict(
        output_dir=str(output),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        per_device_train_batch_size=config.micro_batch_size,
        per_device_eval_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation(config, num_workers),
        bf16=config.bf16,
        activation_checkpointing=config.gradient_checkpointing,
        deepspeed=_deepspeed(config),
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=0.02,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        prediction_loss_only=True,
        seed=config.seed,
        use_cpu=use_cpu,
        ddp_backend="gloo" if use_cpu and torch.distributed.is_initialized() else None,
        ddp_find_unused_parameters=True,  # a vision encoder's last layers may be skipped
        dataloader_pin_memory=not use_cpu,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def accumulation(config: SftConfig, num_workers: int) -> int:
    """Return the number of forward passes per optimiser step.

    Raises:
        ValueError: ``batch_size`` is not a multiple of the micro-batches of all workers.
    """
    part = config.micro_batch_size * num_workers
    if config.batch_size % part:
        raise ValueError(
            f"batch_size = {config.batch_size} must be a multiple of micro_batch_size x workers = {part}"
        )
    return config.batch_size // part


def _deepspeed(config: SftConfig) -> dict[str, Any] | None:
    """Return the DeepSpeed config; what it leaves open follows Hugging Face's arguments ("auto")."""
    names = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    given = read_deepspeed(config.deepspeed)
    follow = {**dict.fromkeys((*names, "gradient_clipping"), "auto"), "bf16": {"enabled": "auto"}}
    return None if given is None else {**follow, "zero_allow_untested_optimizer": True, **given}


def load_policy(name: str) -> tuple[Any, Any]:
    """Load (model in float32, processor) of a supported family."""
    model, processor = load_model(name)
    model.config.name_or_path = name  # for the model card
    return model, processor


class PolicyTrainer(Trainer):
    """Hugging Face's Trainer, made to resume with the weights of the checkpoint.

    The stock Trainer matches names in the file with names in the model literally and silently keeps the
    current weights where they differ. Those of a VLM do differ; only ``from_pretrained`` maps them.
    """

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if isinstance(self.model, PeftModel):  # its names are those of the file
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load = AutoModelForImageTextToText.from_pretrained
        saved = load_weights(load, resume_from_checkpoint, dtype=torch.float32)
        cast(Any, model or self.model).load_state_dict(saved.state_dict())


def build_trainer(
    name: str,
    examples: Sequence[CaptionExample],
    arguments: Any,
    config: SftConfig,
    *,
    callbacks: Sequence[Any] = (),
) -> Trainer:
    """Return a Trainer for policy ``name``. Create ``arguments`` first: ZeRO-3 changes how models load."""
    check_base(name, config.lora)
    model, processor = load_policy(name)
    family = Family(model.model, processor, config.template)
    if config.lora is None:
        family.vision.requires_grad_(config.train_vision)
    else:  # all that is trained is in the adapter, the vision encoder's part included
        names = targets(model, family, vision=config.train_vision)
        model = get_peft_model(model, lora_config(config.lora, names, base=name))
    train, held = (Captions(part, family) for part in split(examples, config.held_out))
    arguments.eval_strategy = "epoch" if len(held) else "no"
    return PolicyTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held if len(held) else None,
        data_collator=Collator(family),
        callbacks=list(callbacks),
    )


def save_policy(trainer: Trainer, folder: str, options: CardOptions) -> None:
    """Write weights, processor and model card as one policy directory; call it on every worker."""
    if not trainer.args.should_save:
        with TemporaryDirectory() as scratch:  # saving gathers this worker's shards on the worker that writes
            trainer.save_model(scratch)
        return
    with storage.new_folder(folder) as partial:
        check_state(cast(Any, trainer.model).state_dict())
        trainer.save_model(str(partial))
        (partial / "training_args.bin").unlink()  # a pickle that repeats the card and config.yaml
        collator: Any = trainer.data_collator
        collator.family.processor.save_pretrained(partial)
        (partial / "README.md").write_text(model_card(trainer, options))


def training_metrics(trainer: Trainer) -> dict[str, Any]:
    """Return the metrics of a finished run: losses by step, numbers of steps and tokens, seconds."""
    log = trainer.state.log_history
    train: Any = trainer.train_dataset
    tokens = {"num_caption_tokens": train.num_tokens} if isinstance(train, Captions) else {}
    return {
        "num_train_captions" if tokens else "num_train_pairs": len(train),
        **tokens,
        "num_steps": trainer.state.global_step,
        "seconds": next((entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry), 0.0),
        "loss": [{"step": entry["step"], "loss": entry["loss"]} for entry in log if "loss" in entry],
        "eval_loss": [
            {"step": entry["step"], "loss": entry["eval_loss"]} for entry in log if "eval_loss" in entry
        ],
    }


def model_card(trainer: Trainer, options: CardOptions) -> str:
    """Return the model card of a fine-tuned policy: base model, data, settings, losses, limits."""
    metrics, arguments = training_metrics(trainer), trainer.args
    base = cast(Any, trainer.model).config._name_or_path
    losses = [entry["loss"] for entry in metrics["loss"]]
    loader = "PeftModel" if isinstance(trainer.model, PeftModel) else "AutoModelForImageTextToText"
    held_out = [f", {entry['loss']:.4f} on held-out images" for entry in metrics["eval_loss"][-1:]]
    library = "peft" if isinstance(trainer.model, PeftModel) else "transformers"
    head = front_matter(base, options, tags=("image-captioning",), library=library)
    return f"""{head}# Policy fine-tuned by visvm

{_trained(trainer.model)} of `{label(base)}` was trained on {_data(metrics, arguments)},
{arguments.num_train_epochs:g} epochs, {metrics["num_steps"]} steps, peak learning rate
{arguments.learning_rate:g}.
Loss: {losses[0]:.4f} at first, {losses[-1]:.4f} at last{"".join(held_out)}.

Load it with `{loader}.from_pretrained`, or name its folder as `--policy`.
It writes captions of images, it still makes mistakes, and it was tuned for nothing else.
"""


def _data(metrics: dict[str, Any], arguments: Any) -> str:
    if "num_train_pairs" in metrics:
        return f"{metrics['num_train_pairs']} preferences of search traces by DPO, beta {arguments.beta:g}"
    tokens = f"({metrics['num_caption_tokens']} tokens), loss on the captions' tokens only"
    return f"{metrics['num_train_captions']} searched captions {tokens}"


def _trained(model: Any) -> str:
    if not isinstance(model, PeftModel):
        return "Every weight"
    lora: Any = model.peft_config["default"]
    return f"LoRA (rank {lora.r}, alpha {lora.lora_alpha:g}) on {len(lora.target_modules)} linear layers"
