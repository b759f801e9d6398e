"""The demo's report, from folders as its stages leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.inputs.sources import find
from jobs.runner.run_folder import write_json
from jobs.workflow import demo_report
from jobs.workflow.stages import Stages
from visvm.metrics import read_truth
from visvm.schemas import CAPTIONS
from visvm.storage import write_table

METHODS = ("greedy", "visvm", "sft_visvm")
STEPS = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]


def row(method: str, **more: Any) -> dict[str, Any]:
    rates = {name: 0.25 for name in ("chair_s", "chair_i", "recall")}
    intervals = {f"{name}_ci": [0.2, 0.3] for name in rates}
    counts = {"num_sentences": 6.0, "num_words": 50.0, "num_generated_tokens": 60.0, "num_value_calls": 0.0}
    return {"method": method, **rates, **intervals, **counts, "seconds_per_caption": 0.1, **more}


def captions(method: str, images: str) -> list[dict[str, Any]]:
    """A caption of each image in a folder, with a choice of two in each of its steps."""
    said = [{"text": " A zebra."}, {"text": " A dog on a cup."}]
    for i, one in enumerate(said):
        one |= {"temperature": 0.1, "value": i / 2, "num_tokens": 5, "finish_reason": "sentence"}
    trace = [] if method == "greedy" else [{"candidates": said, "choice": 1}]
    text = {"caption": " A dog on a cup.", "sentences": [" A dog on a cup."], "values": [0.5]}
    known = {"prompt": "Describe.", "method": method, "finish_reason": "stop", "content_hash": "0"}
    cost = {"num_generated_tokens": 5, "num_value_calls": 2, "seconds": 0.1}
    return [
        {
            "id": one.image_id,
            "image_id": one.image_id,
            "uri": one.uri,
            "trace": trace,
            **text,
            **known,
            **cost,
        }
        for one in find(images)
    ]


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Stages, dict[str, str], dict[str, Any]]:
    stages = Stages(str(tmp_path), 0, {})
    images = stages.images("images/test", split="test", count=3)
    runs = {method: stages.path(f"captions/test/{method}") for method in METHODS}
    for method, folder in runs.items():
        table = pa.Table.from_pylist(captions(method, images), schema=CAPTIONS)
        write_table(f"{folder}/captions/part-00000.parquet", table)
    rollouts = {"num_responses": 15, "num_triples": 90, "reward_mean": 0.4, "reward_std": 0.1}
    value = {
        "curve": [{"step": 1, "td_loss": 1.0}, {"step": 2, "td_loss": 0.9}],
        "evaluations": [{"step": 2, "held_out": {"explained_variance": 0.2}}],
    }
    stages_metrics = {"rollouts": rollouts, "value/value-0": value, "sft/visvm": {"loss": STEPS}}
    for name, metrics in stages_metrics.items():
        write_json(f"{tmp_path}/{name}/metrics.json", metrics)
    metrics = {
        "rows": [row(method) for method in METHODS],
        "paired": [],
        "calibration": {},
        "config": {"size": "small", "seed": 0, "num_train": 3, "num_test": 3, "num_examples": 2},
        "centres": {"visvm": 0.4},
        "curves": {},
    }
    return stages, runs, metrics


def test_it_shows_table_curves_and_choices(finished: Any) -> None:
    stages, runs, metrics = finished
    page = Path(demo_report.write(stages, runs, metrics)).read_text()
    assert page.count("<img") == 2
    assert page.count("<svg") == 4
    shown = sorted(one.image_id for one in find(stages.path("images/test")))[:2]
    truth = read_truth(stages.path("images/test"), shown)
    without = sum("dog" not in objects for objects in truth.values())
    # Greedy's sentence; of the others the sentence, and the candidate it came from.
    assert page.count("not there: dog") == without * (1 + 2 * 2) > 0


def test_it_shows_the_curves_of_a_full_run(finished: Any) -> None:
    stages, runs, metrics = finished
    metrics["curves"] = {
        "centre": {"visvm": [row("visvm", centre=0.4), row("visvm", centre=0.5, num_sentences=5.0)]},
        "centre_compared": [row("greedy")],
        "step_size": {"prm": [row("prm", step_size=k) for k in (1, 2)]},
    }
    page = Path(demo_report.write(stages, runs, metrics)).read_text()
    assert page.count("<svg") == 4 + 3
    assert "Moving the reward centre" in page and "Candidates a step" in page
