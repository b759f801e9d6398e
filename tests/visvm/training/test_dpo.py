"""DPO on search traces: the tokens compared, the reference, and resumption to the same weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import tiny
from visvm.families import Family
from visvm.training import dpo, sft
from visvm.training.config import LoraSettings, SftConfig


@pytest.fixture
def preferences(tmp_path: Path) -> list[dpo.Preference]:
    made = []
    for number in range(4):
        uri = tmp_path / f"{number}.png"
        tiny.image(number).pil.save(uri)
        sides = (" There is a cup.", " A cat sleeps under the table.")
        known = (str(number), str(uri), None, "Describe the image.", "A dog sits on a bench.")
        made.append(dpo.Preference(*known, *sides, chosen_ended=True, rejected_ended=False))
    return made


def config_of(**given: Any) -> SftConfig:
    values = {"batch_size": 2, "micro_batch_size": 2, "held_out": 0.0, "learning_rate": 1e-3, "epochs": 2}
    return SftConfig(**values | given)


def trainer_of(policy: Path, preferences: list[dpo.Preference], out: Path, **given: Any) -> Any:
    config = config_of(objective="step-dpo", **given)
    arguments = dpo.dpo_arguments(config, output=out, num_workers=1, use_cpu=True)
    return dpo.build_trainer(str(policy), preferences, arguments, config)


def test_only_the_two_continuations_are_compared(
    tiny_policy: Path, preferences: list[dpo.Preference]
) -> None:
    model, processor = sft.load_policy(str(tiny_policy))
    family = Family(model.model, processor)
    batch = dpo.PreferenceCollator(family)([asdict(one) for one in preferences[:2]])
    compared = [
        row[mask.bool()].tolist()
        for row, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    end = family.tokenizer.eos_token_id
    chosen, rejected = (family.text_ids(text) for text in (preferences[0].chosen, preferences[0].rejected))
    assert compared == [[*chosen, end]] * 2 + [rejected] * 2
    assert batch["pixel_values"].shape[0] == 4


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_the_chosen_side_becomes_likelier_than_under_the_reference(
    tiny_policy: Path, preferences: list[dpo.Preference], tmp_path: Path, lora: LoraSettings | None
) -> None:
    trainer = trainer_of(tiny_policy, preferences, tmp_path / "out", lora=lora)
    known = trainer.train_dataset["ref_chosen_logps"]
    assert len(known) == 4 and all(value < 0 for value in known)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are equal at first
    assert log[-1]["loss"] < 0.69
    assert log[-1]["rewards/margins"] > 0
    sft.save_policy(trainer, str(tmp_path / "model"), config_of())
    assert "4 preferences of search traces by DPO" in (tmp_path / "model" / "README.md").read_text()


def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_weights(
    tiny_policy: Path, preferences: list[dpo.Preference], tmp_path: Path
) -> None:
    whole = trainer_of(tiny_policy, preferences, tmp_path / "whole", save_steps=2)
    whole.train()
    resumed = trainer_of(tiny_policy, preferences, tmp_path / "resumed", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.state.global_step == whole.state.global_step == 4
    pairs = zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)


def test_what_holds_no_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read pairs"):
        dpo.read_preferences([str(tmp_path)])
