"""Fine-tuning: the tokens of generation, loss on the answer only, exact resume, a loadable result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny
from visvm.families import Family
from visvm.policy import SharedPrefixPolicy
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import Request
from visvm.schemas import CAPTIONS
from visvm.training import sft
from visvm.training.captions import (
    IGNORED,
    CaptionExample,
    Captions,
    Collator,
    read_captions,
    split,
)
from visvm.training.config import CardOptions
from visvm.training.diverged import Diverged

PROMPT = "Describe the following image."


def make_examples(folder: Path, num: int = 8) -> list[CaptionExample]:
    """Return captions of saved images of several shapes; every third was cut by length."""
    examples = []
    for i in range(num):
        uri = folder / f"{i}.png"
        tiny.image(i, width=40 + 8 * (i % 3)).pil.save(uri)
        examples.append(CaptionExample(str(i), str(uri), PROMPT, tiny.TEXT[i % 3], ended=i % 3 != 2))
    return examples


def captions_table(examples: list[CaptionExample]) -> pa.Table:
    rows = [
        {"id": f"{e.image_id}-x", "image_id": e.image_id, "uri": e.uri, "prompt": e.prompt}
        | {"caption": e.caption, "finish_reason": "stop" if e.ended else "length"}
        for e in examples
    ]
    return pa.Table.from_pylist(rows, schema=CAPTIONS)


def trainer_of(model: Path, examples: list[CaptionExample], scratch: Path, **settings: Any) -> Any:
    defaults = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 2, "held_out": 0}
    config = sft.SftConfig(**(defaults | settings))
    arguments = sft.training_arguments(config, output=scratch, num_workers=1, use_cpu=True)
    return sft.build_trainer(str(model), examples, arguments, config)


def same_weights(a: Any, b: Any, **tolerance: float) -> bool:
    theirs = dict(b.named_parameters())
    return all(torch.allclose(p, theirs[name], **tolerance) for name, p in a.named_parameters())


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("llava", tmp_path_factory.mktemp("models") / "llava")


@pytest.mark.parametrize("name", tiny.NAMES)
def test_trains_on_the_tokens_of_generation(name: str, tmp_path: Path) -> None:
    folder = tiny.save(name, tmp_path / name)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    family = Family(model.model, AutoProcessor.from_pretrained(folder))
    examples = make_examples(tmp_path, 3)
    batch = Collator(family)([Captions(examples, family)[i] for i in range(3)])
    for i, example in enumerate(examples):
        content = [
            {"type": "image", "image": tiny.image(i, width=40 + 8 * i).pil},
            {"type": "text", "text": PROMPT},
        ]
        prompt = family.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_tensors="pt",
        )
        end = [family.tokenizer.eos_token_id] * example.ended
        answer = [*family.tokenizer(example.caption, add_special_tokens=False).input_ids, *end]
        real = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][real].tolist() == [*prompt[0].tolist(), *answer]
        labels = batch["labels"][i]
        assert labels[labels != IGNORED].tolist() == answer
        assert (labels[: prompt.shape[1]] == IGNORED).all()


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl"])
def test_loss_equals_the_policys_negative_log_probability(name: str, tmp_path: Path) -> None:
    """The SFT loss of a caption by the policy equals the engine's -log p per token."""
    policy = SharedPrefixPolicy.from_pretrained(str(tiny.save(name, tmp_path / name)), max_new_tokens=12)
    image = tiny.image(1)
    image.pil.save(tmp_path / "1.png")
    candidate = policy.propose(policy.open([Request(image, PROMPT)]), [0], whole=True)[0][0]
    example = CaptionExample(
        "1", str(tmp_path / "1.png"), PROMPT, candidate.text, candidate.finish_reason == "stop"
    )
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.float32)
    answer = list(candidate.token_ids) + [policy.eos_ids[0]] * example.ended
    batch = Collator(Family(model.model, policy.family.processor))([(example, answer)])
    with torch.inference_mode():
        loss = float(model(**batch).loss)
    assert loss * len(answer) == pytest.approx(-candidate.log_prob, rel=1e-4)


def test_the_fine_tuned_policy_loads_and_has_learned(llava: Path, tmp_path: Path) -> None:
    trainer = trainer_of(llava, make_examples(tmp_path), tmp_path / "scratch", learning_rate=1e-2, epochs=6)
    trainer.train()
    sft.save_policy(trainer, str(tmp_path / "model"), CardOptions())
    metrics = sft.training_metrics(trainer)
    assert metrics["loss"][-1]["loss"] < 0.6 * metrics["loss"][0]["loss"]
    assert metrics["num_steps"] == 12
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    assert same_weights(again, trainer.model, rtol=0, atol=0)
    before = AutoModelForImageTextToText.from_pretrained(llava)
    moved = [name for name, p in before.named_parameters() if not p.equal(again.get_parameter(name))]
    assert any("vision_tower" in name for name in moved) and any("language_model" in name for name in moved)
    policy = SharedPrefixPolicy.from_pretrained(str(tmp_path / "model"))
    assert policy.propose(policy.open([Request(tiny.image(0), PROMPT)]), [0])
    assert not list((tmp_path / "model").glob("*.bin"))
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()} == {0o644}
    assert not any(str(tmp_path).encode() in file.read_bytes() for file in (tmp_path / "model").iterdir())


def test_a_policy_that_diverged_is_not_saved(llava: Path, tmp_path: Path) -> None:
    trainer = trainer_of(llava, make_examples(tmp_path, 4), tmp_path / "scratch", epochs=1)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="not finite"):
        sft.save_policy(trainer, str(tmp_path / "model"), CardOptions())
    assert not (tmp_path / "model").exists()


def test_losses_do_not_depend_on_the_micro_batch(llava: Path, tmp_path: Path) -> None:
    examples = make_examples(tmp_path)
    losses = []
    for size in (1, 4):
        trainer = trainer_of(llava, examples, tmp_path / str(size), micro_batch_size=size)
        trainer.train()
        losses.append([entry["loss"] for entry in sft.training_metrics(trainer)["loss"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(("size", "tolerance"), [(2, 0), (1, 1e-4)])
def test_resumes_exactly(llava: Path, tmp_path: Path, size: int, tolerance: float) -> None:
    """A smaller micro-batch, as after running out of memory, changes only the order of sums."""
    examples = make_examples(tmp_path)
    whole = trainer_of(llava, examples, tmp_path / "whole", save_steps=1)
    whole.train()
    rest = trainer_of(llava, examples, tmp_path / "rest", save_steps=1, micro_batch_size=size)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert same_weights(whole.model, rest.model, rtol=0, atol=tolerance)
    losses = [[entry["loss"] for entry in sft.training_metrics(one)["loss"]] for one in (rest, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)


def test_eval_loss_is_computed_on_held_out_images(llava: Path, tmp_path: Path) -> None:
    trainer = trainer_of(llava, make_examples(tmp_path), tmp_path / "scratch", held_out=0.25, epochs=1)
    trainer.train()
    assert len(trainer.eval_dataset) == 2 and len(trainer.train_dataset) == 6
    assert len(sft.training_metrics(trainer)["eval_loss"]) == 1


def test_split_is_by_image_and_does_not_depend_on_order() -> None:
    examples = [CaptionExample(str(i % 10), "", PROMPT, str(i), True) for i in range(40)]
    train, held_out = split(examples, 0.2)
    assert len(held_out) == 8 and len(train) == 32
    assert not {e.image_id for e in train} & {e.image_id for e in held_out}
    assert {e.caption for e in split(examples[::-1], 0.2)[1]} == {e.caption for e in held_out}
    assert split(examples, 0) == (examples, [])
    assert split(examples[:1], 0.5) == (examples[:1], [])


def test_reads_folders_and_skips_empty_captions(tmp_path: Path) -> None:
    examples = make_examples(tmp_path, 4)
    for part, rows in (
        ("a", examples[:2]),
        ("b", [*examples[2:], CaptionExample("9", "x.png", PROMPT, " ", True)]),
    ):
        (tmp_path / part).mkdir()
        pq.write_table(captions_table(rows), tmp_path / part / "0.parquet")
    assert read_captions([str(tmp_path / "a"), str(tmp_path / "b")]) == examples


def test_folders_without_captions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other" / "0.parquet")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.parquet").write_bytes(b"not parquet")
    (tmp_path / "blank").mkdir()
    pq.write_table(captions_table([]), tmp_path / "blank" / "0.parquet")
    for name in ("missing", "empty", "other", "broken", "blank"):
        with pytest.raises(ValueError, match=name):
            read_captions([str(tmp_path / name)])


def test_reads_json_of_other_programs(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "caption": "A cat.", "prompt": PROMPT},
        {"image_id": 7, "image_path": f"{tmp_path}/b.png", "answer": "A dog", "finish_reason": "length"},
        {"file_name": "sub/c.png", "text": " "},
    ]
    for name, text in (
        ("lines.jsonl", "\n".join(map(json.dumps, rows))),
        ("coco.json", json.dumps({"annotations": rows})),
    ):
        (tmp_path / name).write_text(text)
        assert read_captions([str(tmp_path / name)]) == [
            CaptionExample("7", f"{tmp_path}/b.png", DETAIL_PROMPTS[0], "A dog", False),
            CaptionExample("a.png", f"{tmp_path}/a.png", PROMPT, "A cat.", True),
        ]
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png", "caption": "A."}\n{"caption": "A."}')
    with pytest.raises(ValueError, match=r"bad\.jsonl line 2: expected the path of an image under"):
        read_captions([str(tmp_path / "bad.jsonl")])


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of micro_batch_size"):
        sft.accumulation(sft.SftConfig(batch_size=8, micro_batch_size=3), 1)
    with pytest.raises(ValueError, match="save_steps"):
        sft.SftConfig(save_steps=1.5)
    with pytest.raises(ValueError, match="cannot read DeepSpeed config"):
        sft.read_deepspeed(str(tmp_path / "missing.json"))
    assert sft.read_deepspeed({"zero_optimization": {"stage": 3}}) == {"zero_optimization": {"stage": 3}}
