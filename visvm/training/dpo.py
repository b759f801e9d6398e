"""Direct preference optimisation of a policy (Rafailov et al. 2023), by TRL's trainer.

TRL's own collator for images tokenises by the chat template, which ends both sides, and its trainer refuses
to compute the reference's log-probabilities beforehand. Here both sides are the tokens that the policy reads
and writes, only one that ended its caption ends, and the reference is read once, before the first step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from visvm import storage
from visvm.families import Family
from visvm.tables import table_files
from visvm.training.captions import IGNORED, CaptionExample, Collator, split
from visvm.training.config import SftConfig
from visvm.training.lora import check_base, lora_config, targets
from visvm.training.sft import PolicyTrainer, argument_values, load_policy

COLUMNS = ("image_id", "uri", "content_hash", "prompt", "prefix", "chosen", "rejected")
ENDED = ("chosen_ended", "rejected_ended")


@dataclass(frozen=True)
class Preference:
    """Two continuations of ``prefix``, of which ``chosen`` is to become more likely than ``rejected``."""

    image_id: str
    uri: str
    content_hash: str | None
    prompt: str
    prefix: str
    chosen: str
    rejected: str
    chosen_ended: bool
    rejected_ended: bool


def read_preferences(places: Sequence[str]) -> list[Preference]:
    """Read the pairs of runs of visvm export, sorted by image, prompt and text.

    Raises:
        ValueError: a place is missing, or holds no pairs.
    """
    found = [_preference(row) for place in places for row in _rows(place)]
    return sorted(found, key=lambda one: (one.image_id, one.prompt, one.prefix, one.chosen, one.rejected))


def _rows(place: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for file in table_files(place, "pairs"):
        try:
            missing = {*COLUMNS, *ENDED} - set(storage.parquet(file).schema_arrow.names)
            rows += [] if missing else storage.read_table(file, [*COLUMNS, *ENDED]).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot read pairs from {file}: {str(error).splitlines()[0]}") from None
        if missing:
            raise ValueError(
                f"{file}: expected the pairs of visvm export --to dpo or step-dpo; missing:"
                f" {', '.join(sorted(missing))}"
            )
    if not rows:
        raise ValueError(f"{place} holds no pairs")
    return rows


def _preference(row: Mapping[str, Any]) -> Preference:
    sides = {name: row[name][0]["content"].removeprefix(row["prefix"]) for name in ("chosen", "rejected")}
    return Preference(**{**row, "prompt": row["prompt"][0]["content"], **sides})


class PreferenceCollator:
    """Batches for DPO: the chosen side of every pair, then the rejected ones."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.collate = Collator(family)

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return ``input_ids``, ``completion_mask`` [2 B, T] and what the vision encoder takes.

        Where they are known, ``ref_chosen_logps`` and ``ref_rejected_logps`` [B] too.
        """
        rows = [(row, name) for name in ("chosen", "rejected") for row in batch]
        prefixes = [self.family.text_ids(row["prefix"]) if row["prefix"] else [] for row, _ in rows]
        out = self.collate(
            [
                (_example(row), [*prefix, *self._ids(row, name)])
                for (row, name), prefix in zip(rows, prefixes, strict=True)
            ]
        )
        mask = (out.pop("labels") != IGNORED).long()
        for own, prefix in zip(mask, prefixes, strict=True):
            first = int(own.argmax())
            own[first : first + len(prefix)] = 0
        known = [name for name in ("ref_chosen_logps", "ref_rejected_logps") if name in batch[0]]
        return {
            **out,
            "completion_mask": mask,
            **{name: Tensor([row[name] for row in batch]) for name in known},
        }

    def _ids(self, row: Mapping[str, Any], name: str) -> list[int]:
        end = [self.family.tokenizer.eos_token_id] if row[f"{name}_ended"] else []
        return [*self.family.text_ids(row[name]), *end]


def _example(row: Mapping[str, Any]) -> CaptionExample:
    return CaptionExample(row["image_id"], row["uri"], row["prompt"], "", ended=False)


class PreferenceTrainer(PolicyTrainer, DPOTrainer):
    """TRL's trainer on preferences as they are: the collator tokenises them and reads their images."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _send_telemetry(self) -> None:
        """Send nothing."""


def dpo_arguments(config: SftConfig, *, output: Path, num_workers: int, use_cpu: bool) -> Any:
    """Return the arguments of TRL's trainer; ``output`` is this worker's folder for checkpoints."""
    return DPOConfig(
        **argument_values(config, output=output, num_workers=num_workers, use_cpu=use_cpu),
        gradient_checkpointing=config.gradient_checkpointing,
        beta=config.beta,
        max_length=None,
        precompute_ref_log_probs=True,
    )


def build_trainer(
    name: str,
    preferences: Sequence[Preference],
    arguments: Any,
    config: SftConfig,
    *,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Return a Trainer of policy ``name``, its own weights at the start being the reference."""
    check_base(name, config.lora)
    model, processor = load_policy(name)
    family = Family(model.model, processor, config.template)
    lora = None
    if config.lora is None:
        family.vision.requires_grad_(config.train_vision)
    else:
        lora = lora_config(config.lora, targets(model, family, vision=config.train_vision), base=name)
    train, held = (
        Dataset.from_list([asdict(one) for one in part]) for part in split(preferences, config.held_out)
    )
    arguments.eval_strategy = "epoch" if len(held) else "no"
    return PreferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=held if len(held) else None,
        processing_class=processor,
        data_collator=PreferenceCollator(family),
        peft_config=lora,
        callbacks=list(callbacks),
    )
