"""LoRA: only the adapter is trained, all of it is saved, and what is loaded is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from jobs import finetune, merge, train_value
from jobs.capacity.memory import worker_bytes
from jobs.runner.command import parse
from tests.support import tiny
from tests.visvm.training.test_sft import PROMPT, captions_table, make_examples, trainer_of
from tests.visvm.training.test_value_training import rollouts, tiny_question, trainer
from visvm.families.loading import load_model
from visvm.training import sft
from visvm.training.config import CardOptions, LoraSettings
from visvm.training.value_loop import ValueTrainer
from visvm.value import ValueScorer

__all__ = ["rollouts"]  # a fixture
LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def tuned(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A trainer that has fine-tuned LoRA, the vision encoder's included, and the folder it saved."""
    folder = tmp_path_factory.mktemp("lora")
    one = trainer_of(tiny_policy, make_examples(folder), folder / "scratch", lora=LORA, learning_rate=1e-2)
    one.train()
    sft.save_policy(one, str(folder / "model"), CardOptions())
    return one, folder / "model"


def logits(model: Any, processor: Any) -> torch.Tensor:
    content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    given = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images": [tiny.image(5).pil]},
    )
    with torch.no_grad():
        return model.eval()(**given).logits


def test_what_is_loaded_is_what_was_trained(tuned: tuple[Any, Path], tiny_policy: Path) -> None:
    one, folder = tuned
    model, processor = load_model(str(folder))
    trained = logits(one.model, processor)
    torch.testing.assert_close(logits(model, processor), trained, rtol=1e-4, atol=1e-4)
    before = AutoModelForImageTextToText.from_pretrained(tiny_policy)
    assert (logits(before, processor) - trained).abs().max() > 0.1
    kept = dict(before.named_parameters())
    base = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): p
        for name, p in one.model.named_parameters()
        if ".lora_" not in name
    }
    assert kept.keys() == base.keys()
    assert all(torch.equal(p, kept[name]) and not p.requires_grad for name, p in base.items())


def test_the_vision_encoder_is_trained_by_lora_and_saved(tuned: tuple[Any, Path]) -> None:
    one, folder = tuned
    saved = load_file(folder / "adapter_model.safetensors")
    trained = {name for name, p in one.model.named_parameters() if p.requires_grad}
    assert len(saved) == len(trained)
    vision = [weight for name, weight in saved.items() if "vision" in name and "lora_B" in name]
    assert vision and any(weight.abs().max() > 0 for weight in vision)
    card = (folder / "README.md").read_text()
    assert "LoRA (rank 4, alpha 8)" in card and "Every weight" not in card


def test_a_resumed_run_ends_with_the_same_weights(tiny_policy: Path, tmp_path: Path) -> None:
    examples, settings = make_examples(tmp_path), {"lora": LORA, "train_vision": False, "save_steps": 2}
    whole = trainer_of(tiny_policy, examples, tmp_path / "a", **settings)
    whole.train()
    assert not any("vision" in name for name, p in whole.model.named_parameters() if p.requires_grad)
    again = trainer_of(tiny_policy, examples, tmp_path / "a", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    theirs = dict(whole.model.named_parameters())
    for name, weight in again.model.named_parameters():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-4, atol=1e-5)


def test_an_exported_value_model_is_the_trained_one(tiny_policy: Path, rollouts: Any, tmp_path: Path) -> None:
    one: ValueTrainer = trainer(tiny_policy, rollouts, epochs=2, lora=LORA, learning_rate=1e-2)
    frozen = {n: p.clone() for n, p in one.model.named_parameters() if not p.requires_grad}
    one.run(log=lambda entry: None, checkpoint=lambda: None)
    assert frozen and all(torch.equal(dict(one.model.named_parameters())[n], p) for n, p in frozen.items())
    one.export(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert not any("lora" in name or "base_layer" in name for name in names)
    question = tiny_question()
    (mine,) = ValueScorer(one.model).outputs([question])
    (theirs,) = ValueScorer.from_pretrained(str(tmp_path)).outputs([question])
    torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-4)


def test_merge_writes_a_policy_of_its_own(
    tuned: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, folder = tuned
    assert merge.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "visvm check" in capsys.readouterr().out
    model, processor = load_model(str(tmp_path / "out" / "model"))
    torch.testing.assert_close(logits(model, processor), logits(one.model, processor), rtol=1e-4, atol=1e-4)
    assert merge.main([str(tmp_path / "out" / "model"), "--out", str(tmp_path / "again")]) == 2
    assert "is not an adapter" in capsys.readouterr().err


def test_lora_on_an_adapter_is_refused(tuned: tuple[Any, Path], tmp_path: Path, capsys: Any) -> None:
    pq.write_table(captions_table(make_examples(tmp_path, 1)), tmp_path / "0.parquet")
    words = ["--policy", str(tuned[1]), "--captions", str(tmp_path), "--out", str(tmp_path / "out")]
    assert finetune.main([*words, "--lora", "rank=4"]) == 2
    assert "merge it first" in capsys.readouterr().err


def test_the_flag_is_parsed_and_memory_is_that_of_lora() -> None:
    words = ["--policy", "world", "--rollouts", "x", "--out", "y"]
    plain = parse(train_value.TrainValueConfig, words, doc="")
    lora = parse(train_value.TrainValueConfig, [*words, "--lora", "rank=8,dropout=0.1"], doc="")
    assert lora.lora == LoraSettings(rank=8, dropout=0.1) and lora.lora.scale == 16
    state = "weights and optimiser"
    assert worker_bytes(plain)[state] == 4 * worker_bytes(lora)[state]
    with pytest.raises(ValueError, match=r"lora\.ranks.*unknown key"):
        parse(train_value.TrainValueConfig, [*words, "--lora", "ranks=8"], doc="")
