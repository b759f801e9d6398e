"""The finetune job on Ray: two workers, a failure and its resumption, a policy that loads."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForImageTextToText

from jobs import finetune
from tests.support import tiny
from tests.support.killing import kill_a_worker
from tests.visvm.training.test_sft import captions_table, make_examples, trainer_of
from visvm.policy import SharedPrefixPolicy
from visvm.training import sft


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_a_failure_and_its_resumption_equal_one_plain_run(tmp_path: Path) -> None:
    """Rows, batches and steps do not depend on the workers, nor on having been cut off."""
    model, examples = tiny.save("llava_next", tmp_path / "model"), make_examples(tmp_path, 12)
    examples = sorted(examples, key=lambda one: one.image_id)  # as the job reads them
    (tmp_path / "captions").mkdir()
    pq.write_table(captions_table(examples), tmp_path / "captions" / "0.parquet")
    settings = {"epochs": 6, "learning_rate": 1e-3, "batch_size": 4, "held_out": 0, "save_steps": 1}
    plain = trainer_of(model, examples, tmp_path / "scratch", micro_batch_size=4, **settings)
    plain.train()

    words = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words += ["--policy", str(model), "--captions", str(tmp_path), "--out", str(tmp_path / "out")]
    words += ["--num-workers", "2", "--micro-batch-size", "2", "--device", "cpu"]
    words += ["--max-failures", "0"]
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "out", []))
    killer.start()
    assert finetune.main(words) == 1
    killer.join()
    assert list((tmp_path / "out" / "checkpoints").glob("checkpoint_*")), "there is something to go on from"
    assert finetune.main(words) == 0

    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    expected = sft.training_metrics(plain)
    assert metrics["num_steps"] == 18 and metrics["num_caption_tokens"] == expected["num_caption_tokens"]
    losses = [[entry["loss"] for entry in one["loss"]] for one in (metrics, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    curve = (tmp_path / "out" / "curve.jsonl").read_text().splitlines()
    assert [entry["step"] for entry in map(json.loads, curve) if "loss" in entry] == [*range(1, 19)]

    tuned = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "model")
    before = AutoModelForImageTextToText.from_pretrained(model)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    ours, theirs = tuned.get_parameter(name), plain.model.get_parameter(name)
    moved = (theirs - before.get_parameter(name)).norm()
    assert (ours - theirs).norm() < 0.05 * moved
    assert SharedPrefixPolicy.from_pretrained(str(tmp_path / "out" / "model"))
