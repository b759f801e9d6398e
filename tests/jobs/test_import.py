"""Import as a user runs it: responses of another generator become what train-value learns from."""

import importlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from actors.batch.generate import ROLLED, RewardOfOthers
from jobs.inputs.responses import Answered, make_units
from jobs.inputs.rollouts import rollout_files
from jobs.inputs.sources import Source
from jobs.runner.part_files import parts, read_rows
from tests.support import tiny
from visvm import images
from visvm.reward import ClipScorer
from visvm.schemas import ROLLOUTS, TRIPLES
from visvm.training.rollouts import from_rows

job = importlib.import_module("jobs.import_")


def test_the_actor_splits_hashes_and_scores(tiny_clip: Path, tmp_path: Path) -> None:
    tiny.image(0).pil.save(tmp_path / "0.png")
    answered = [
        Answered(name, "What?", [{"text": "A cat. It sleeps.", "finish_reason": "stop"}])
        for name in ("0.png", "gone.png")
    ]
    units = make_units(answered, [Source("0.png", str(tmp_path / "0.png"))], ROLLED)
    done = RewardOfOthers({"name": str(tiny_clip)})(units).to_pylist()
    bad, good = sorted(done, key=lambda row: row["error"] is None)
    assert bad["error"] == "gone.png: no such image" and good["image_id"] == "0.png"
    assert good["content_hash"] == images.load(good["uri"]).content_hash
    assert good["responses"][0]["sentences"] == ["A cat.", " It sleeps."]
    assert len(good["responses"][0]["rewards"]) == 2


@pytest.mark.ray
def test_rewards_are_those_of_the_scorer(
    tiny_clip: Path, local_ray: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, file, out = tmp_path / "photos", tmp_path / "responses.jsonl", tmp_path / "out"
    photos.mkdir()
    for i in range(3):
        tiny.image(i).pil.save(photos / f"{i}.png")
    (photos / "3.png").write_bytes(b"no image")
    rows = [
        {
            "image": "0.png",
            "prompt": "What?",
            "responses": ["A cat. It sleeps.", {"text": "A dog", "finish_reason": "length"}],
        },
        *({"image": f"photos/{i}.png", "responses": ["A tree."]} for i in (1, 3)),
        {"image": "gone.png", "responses": ["A house."]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ["--images", str(photos), "--responses", str(file), "--reward", str(tiny_clip), "--out", str(out)]
    assert job.main(words) == 0
    found = {row["image_id"]: row for row in read_rows(out / "rollouts")}
    assert set(found) == {"0.png", "1.png"}
    first = found["0.png"]
    assert first["content_hash"] == images.load(str(photos / "0.png")).content_hash
    assert [one["sentences"] for one in first["responses"]] == [["A cat.", " It sleeps."], ["A dog"]]
    assert [one["finish_reason"] for one in first["responses"]] == ["stop", "length"]
    scorer = ClipScorer.from_pretrained(str(tiny_clip))
    image = images.load(str(photos / "0.png"))
    [expected] = scorer.similarities([image], [["A cat.", " It sleeps.", "A dog"]])
    rewards = [reward for one in first["responses"] for reward in one["rewards"]]
    assert rewards == pytest.approx(expected, abs=1e-6)
    assert {row["image_id"]: row["stage"] for row in read_rows(out / "errors")} == {
        "3.png": "decode",
        "gone.png": "read",
    }
    for folder, schema in (("rollouts", ROLLOUTS), ("triples", TRIPLES)):
        assert all(pq.read_schema(part).equals(schema) for part in parts(out / folder))
    assert rollout_files(str(out)) and [one.num_pairs for one in from_rows(found.values())] == [2, 1]
    assert "visvm train-value --policy world --rollouts" in capsys.readouterr().out
    assert job.main(words) == 0  # nothing to do
    file.write_text(json.dumps({"image": "0.png", "prompt": "What?", "responses": ["Other."]}))
    assert job.main(words) == 0
    assert [row["responses"][0]["text"] for row in read_rows(out / "rollouts")] == ["Other."]
