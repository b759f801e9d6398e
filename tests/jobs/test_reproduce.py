"""Reproduce: its configuration, its plan, and its page from captions that the world's writer wrote."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import reproduce
from jobs.caption import CaptionConfig
from jobs.runner.part_files import PartFiles
from jobs.workflow import benchmarks, reproduce_report
from jobs.workflow.reproduce_config import ReproduceConfig
from jobs.workflow.stages import Metrics, Stages
from visvm import storage
from visvm.config import load
from visvm.schemas import CAPTIONS
from visvm.world import writer
from visvm.world.benchmarks import rating
from visvm.world.scenes import layout

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {
    "num_test": 12,
    "num_step_sizes": 6,
    "step_sizes": (1,),
    "probes": (2,),
    "second_reward": "world",
    "sft": ("visvm",),
}


@dataclass(frozen=True)
class WrittenStages(Stages):
    """Stages whose models are not trained and whose captions the world's writer writes; the rest is real."""

    written: list[str] = field(default_factory=list)
    breaks_at: int = 0

    def rollouts(self, name: str, images: str, **options: Any) -> Metrics:
        return {}

    def value(self, name: str, rollouts: str, **options: Any) -> Metrics:
        return {}

    def metrics(self, name: str) -> Metrics:
        return {"reward_mean": 0.4} if name.startswith("rollouts") else super().metrics(name)

    def finetune(self, name: str, captions: str, **options: Any) -> str:
        return f"{self.path(name)}/model"

    def captions(self, name: str, images: str, **options: Any) -> str:
        write = writer.truthful if "visvm" in name else writer.caption

        def work(config: CaptionConfig) -> Metrics:
            self.written.append(name)
            if len(self.written) == self.breaks_at:
                raise KeyboardInterrupt
            rows = [_row(Path(images), index, write) for index in range(options["sample"])]
            files = PartFiles(f"{config.out}/captions", CAPTIONS)
            files.add(pa.Table.from_pylist(rows, schema=CAPTIONS))
            files.flush()
            return {}

        self.run(name, work, CaptionConfig, {"images": images, **options})
        return self.path(name)


def _row(images: Path, index: int, write: Any) -> dict[str, Any]:
    one = layout("test", index)
    sentences = [sentence.text for sentence in write(one, random.Random(index))]
    image_id = f"{one.image_id:012d}"
    cost = {"num_generated_tokens": 50, "num_value_calls": 0, "seconds": 0.1}
    known = {"id": image_id, "image_id": image_id, "uri": str(images / "images" / f"{image_id}.png")}
    text = {"caption": " ".join(sentences), "sentences": sentences, "prompt": "Describe.", "method": "greedy"}
    return {**known, **text, **cost, "values": [], "trace": [], "finish_reason": "stop"}


def test_the_page_has_the_tables_with_the_paper_beside_ours(tmp_path: Path) -> None:
    config = load(ReproduceConfig, model="world", size="small", out=str(tmp_path), **SMALL)
    stages = WrittenStages(str(tmp_path), 0, {"policy": "world"})
    metrics = reproduce.follow(config, stages)
    text = reproduce_report.write(config, stages, metrics)
    for title in (
        "Table 1",
        "Table 2",
        "Look-ahead probe",
        "Unit of a step",
        "Order of the rows",
        "Leaderboard",
    ):
        assert f"## {title}" in text
    amber, mmhal = metrics["benchmarks"]["amber"]["rows"], metrics["benchmarks"]["mmhal"]
    assert amber["visvm"]["generative"]["chair"] == 0 < amber["greedy"]["generative"]["chair"]
    assert amber["visvm"]["generative"]["cog"] == 0 < amber["greedy"]["generative"]["cog"]
    assert mmhal["visvm"]["hallucination_rate"] == 0 < mmhal["greedy"]["hallucination_rate"]
    pope = metrics["benchmarks"]["pope"]["rows"]
    assert pope["visvm"]["precision"] == 1 > pope["greedy"]["precision"]
    page = (tmp_path / "report.html").read_text()
    assert "paper: CHAIRs" in page and "<svg" in page
    order = next(table for table in reproduce_report.page_tables(config, metrics) if "Order" in table.title)
    verdicts = {(cells[0], cells[1]): cells[-1] for cells in order.cells}
    assert verdicts["stepwise, value (VisVM)", "greedy"] == "as in the paper"
    assert verdicts["MCTS, CLIP reward", "best of 30"] == "not clear of 0"  # the same captions


def test_a_run_that_broke_off_resumes_with_the_stage_it_was_in(tmp_path: Path) -> None:
    given: dict[str, Any] = SMALL | {
        "num_test": 6,
        "num_step_sizes": 2,
        "methods": ("greedy", "prm", "visvm"),
    }
    config = load(ReproduceConfig, model="world", size="small", out=str(tmp_path), **given)
    broken = WrittenStages(str(tmp_path), 0, {"policy": "world"}, breaks_at=5)
    with pytest.raises(KeyboardInterrupt):
        reproduce.follow(config, broken)
    resumed = WrittenStages(str(tmp_path), 0, {"policy": "world"})
    reproduce.follow(config, resumed)
    assert resumed.written[0] == broken.written[-1]
    assert not set(broken.written[:-1]) & set(resumed.written)
    again = WrittenStages(str(tmp_path), 0, {"policy": "world"})
    reproduce.follow(config, again)
    assert again.written == []


def test_the_dry_run_lists_the_stages_that_a_run_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", str(ROOT / "cluster/reproduce_7b.yaml"), "--dry-run"]
    cluster = ["--cluster", str(ROOT / "cluster/sizes/8xh100.yaml")]
    assert reproduce.main([*flags, *cluster]) == 0
    out = capsys.readouterr().out
    assert "value/value_second-0" in out and "captions/test/visvm@16" in out and "amber/answers/mcts" in out
    assert "hours" in out.splitlines()[-1] and "not known" not in out


def test_what_is_trained_already_is_not_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", "world", "--size", "small", "--dry-run", "--out", "out"]
    assert reproduce.main([*flags, "--trained", "visvm=world,visvm_second_reward=world"]) in (0, 2)
    stages = capsys.readouterr().out
    assert "captions/test/visvm " in stages and "rollouts" not in stages and "value/" not in stages


def test_a_small_cluster_cannot_hold_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--config", str(ROOT / "cluster/reproduce_7b.yaml"), "--dry-run"]
    assert reproduce.main([*flags, "--cluster", str(ROOT / "cluster/sizes/8xl4.yaml")]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "llava-next-7b"}, "train_images, test_images, annotations, amber"),
        ({"model": "world", "sft": ["beam"]}, "'beam' is no row"),
        ({"model": "world", "pipeline": {"max_picture": 3}}, "max_picture"),
        ({"model": "world", "units": ["word"]}, "expected sentence, paragraph"),
        ({"model": "llava-13b"}, "model"),
        ({"model": "world", "trained": {"prm": "world"}}, "'prm' learns nothing"),
    ],
)
def test_impossible_settings_are_refused(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(ReproduceConfig, out="out", **given)


def test_the_rating_follows_the_scale_of_mmhal_bench() -> None:
    one = layout("test", 0)
    everything = f"There is {', '.join(map(writer.a, one.names))}."
    assert rating(everything, one) == 6
    assert rating(f"There is {writer.a(one.names[0])}.", one) in (3, 4)
    assert rating(f"{everything} There is {writer.a(one.absent[0])}.", one) == 2
    assert rating("Nothing.", one) == 3


def test_pope_takes_the_images_that_every_row_captioned(tmp_path: Path) -> None:
    stages = WrittenStages(str(tmp_path), 0, {})
    coco = stages.images("images/test", split="test", count=6)
    folders = {name: stages.captions(name, coco, sample=count) for name, count in (("a", 3), ("b", 6))}
    rows = {name: benchmarks.AnsweredRow({}, folder) for name, folder in folders.items()}
    found = benchmarks.pope_from_captions(stages, coco, rows)
    assert found["rows"]["a"]["counts"]["questions"] == found["rows"]["b"]["counts"]["questions"] == 18
    assert storage.exists(stages.path("pope") + "/pope_adversarial.json")
