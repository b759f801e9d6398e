"""The export job: captions with traces become data that `datasets` loads and plain TRL trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import export
from tests.support import tiny
from visvm.schemas import CAPTIONS
from visvm.training.captions import read_captions

PROMPT = "Describe the image."


def candidate(text: str, value: float, reason: str = "sentence") -> dict[str, Any]:
    return {"text": text, "temperature": 0.5, "value": value, "num_tokens": 5, "finish_reason": reason}


CUT = candidate(" A cu", -1, "length")


def caption_row(folder: Path, number: int, *, method: str = "visvm") -> dict[str, Any]:
    """A caption of two steps; the second chosen sentence repeats the first, and a cup is not named."""
    uri = folder / f"{number}.png"
    tiny.image(number).pil.save(uri)
    first, again = "A dog sits on a bench.", " A dog sits on a bench."
    steps = [
        ([candidate(first, 1.0), candidate("A cat sits on a bench.", 0.2), candidate(first, 1.0)], 0),
        (
            [
                candidate(" There is a cup.", 0.4),
                candidate(again, 0.9, "stop"),
                candidate(" A cu", -1, "length"),
            ],
            1,
        ),
    ]
    return {
        "id": str(number),
        "image_id": str(number),
        "uri": str(uri),
        "content_hash": f"hash{number}",
        "prompt": PROMPT,
        "method": method,
        "caption": first + again,
        "sentences": [first, again],
        "finish_reason": "stop",
        "trace": [{"candidates": candidates, "choice": choice} for candidates, choice in steps],
    }


def save(run: Path, rows: list[dict[str, Any]]) -> Path:
    (run / "captions").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=CAPTIONS), run / "captions" / "part-00000.parquet")
    return run


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    return save(tmp_path / "run", [caption_row(tmp_path, number) for number in range(2)])


def exported(run: Path, kind: str, *flags: str) -> Path:
    out = run.parent / f"{kind}-out"
    assert export.main(["--captions", str(run), "--to", kind, "--out", str(out), *flags]) == 0
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return list(load_dataset(str(out), split="train", cache_dir=str(out / "cache")))


def test_captions_to_learn_do_not_repeat_themselves(traced: Path) -> None:
    out = exported(traced, "sft")
    rows = rows_of(out)
    assert [row["completion"][0]["content"] for row in rows] == ["A dog sits on a bench."] * 2
    assert rows[0]["prompt"] == [{"role": "user", "content": PROMPT}]
    assert rows[1]["images"][0].convert("RGB").tobytes() == tiny.image(1).pil.tobytes()
    learned = read_captions([str(out)])
    assert [(one.prompt, one.caption, one.ended) for one in learned] == [
        (PROMPT, "A dog sits on a bench.", True)
    ] * 2


def test_step_pairs_have_one_prefix_and_the_end_of_each_side(traced: Path) -> None:
    first, second = rows_of(exported(traced, "step-dpo", "--no-same-end"))[:2]
    assert first["chosen"][0]["content"] == "A dog sits on a bench."
    assert first["rejected"][0]["content"] == "A cat sits on a bench."
    assert second["prefix"] == "A dog sits on a bench."
    assert second["chosen"][0]["content"] == "A dog sits on a bench. A dog sits on a bench."
    assert second["rejected"][0]["content"] == "A dog sits on a bench. There is a cup."
    assert (second["chosen_ended"], second["rejected_ended"]) == (True, False)
    assert second["chosen_value"] - second["rejected_value"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("flags", "num_rows"),
    [
        ([], 2),
        (["--no-same-end"], 4),
        (["--no-same-end", "--margin", "0.6"], 2),
        (["--no-same-end", "--distinct", "0.5"], 2),
        (["--no-same-end", "--max-length-ratio", "1.4"], 2),
        (["--no-same-end", "--max-pairs", "1"], 2),
    ],
)
def test_pairs_are_chosen_by_margin_difference_and_length(
    traced: Path, flags: list[str], num_rows: int
) -> None:
    metrics = json.loads((exported(traced, "step-dpo", *flags) / "metrics.json").read_text())
    assert metrics["num_rows"] == num_rows


def test_labels_of_kto_and_of_steps(traced: Path) -> None:
    kto = rows_of(exported(traced, "kto", "--no-same-end"))
    assert [row["label"] for row in kto[:4]] == [True, False, True, False]
    prm = rows_of(exported(traced, "trl-prm", "--no-same-end"))
    assert [row["labels"] for row in prm[:3]] == [[True, True], [False], [True, False]]
    assert prm[2]["completions"] == ["A dog sits on a bench.", " There is a cup."]


def test_whole_captions_are_compared_with_another_run(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = [{**caption_row(tmp_path, 0, method="greedy"), "caption": "A cat.", "trace": []}]
    other = save(tmp_path / "greedy", greedy)
    rows = rows_of(exported(traced, "dpo", "--rejected", str(other)))
    assert [row["rejected"][0]["content"] for row in rows] == ["A cat."]
    out = ["--out", str(tmp_path / "none")]
    assert export.main(["--captions", str(traced), "--to", "dpo", *out]) == 2
    assert "give --rejected RUN" in capsys.readouterr().err


def test_base_captions_are_mixed_in_and_poor_coverage_left_out(
    traced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(tmp_path / "base", [{**caption_row(tmp_path, n), "caption": "A cat."} for n in (0, 1, 2)])
    learned = read_captions([str(exported(traced, "sft", "--base", str(base), "--base-share", "1"))])
    assert [(one.image_id, one.caption) for one in learned] == [("0", "A cat."), ("1", "A cat.")]
    words = ["--captions", str(traced), "--to", "sft", "--min-coverage", "0.9", "--out", str(tmp_path / "x")]
    assert export.main(words) == 2
    assert "min_coverage = 0.9 leaves none of 2 captions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["sft", "step-dpo", "kto"])
def test_sharegpt_and_llava_have_images_beside_their_json(traced: Path, kind: str) -> None:
    out = exported(traced, kind, "--format", "sharegpt", "--no-same-end")
    rows = json.loads((out / "data.json").read_text())
    assert len(rows) == {"sft": 2, "step-dpo": 4, "kto": 8}[kind]
    assert all((out / image).is_file() for row in rows for image in row["images"])
    info = json.loads((out / "dataset_info.json").read_text())["visvm"]
    assert all(column in rows[0] for column in info["columns"].values())
    assert rows_of(out)


def test_llava_reads_captions(traced: Path) -> None:
    rows = json.loads((exported(traced, "sft", "--format", "llava") / "data.json").read_text())
    assert rows[0]["conversations"][0]["value"] == f"<image>\n{PROMPT}"
    assert (traced.parent / "sft-out" / rows[0]["image"]).is_file()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--to", "dpo", "--format", "llava"], "llava holds captions only"),
        (["--to", "sft", "--base-share", "0.5"], "base and base_share go together"),
        (["--to", "step-dpo", "--margin", "9"], "no pair in 2 captions"),
        (["--to", "kto", "--rejected", "x"], "only --to dpo compares runs"),
    ],
)
def test_bad_usage_is_told(
    traced: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
) -> None:
    assert export.main(["--captions", str(traced), *flags, "--out", str(traced.parent / "out")]) == 2
    assert told in capsys.readouterr().err


def test_plain_trl_trains_on_pairs(traced: Path, tiny_policy: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import DPOConfig, DPOTrainer

    out = exported(traced, "step-dpo", "--no-same-end")
    data = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    arguments = DPOConfig(
        str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=None,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    model = AutoModelForImageTextToText.from_pretrained(tiny_policy)
    before = model.lm_head.weight.detach().clone()
    processor = AutoProcessor.from_pretrained(tiny_policy)
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=data, processing_class=processor)
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert not before.equal(model.lm_head.weight)
