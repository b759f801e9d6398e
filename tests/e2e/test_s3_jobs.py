"""Everything in S3 (a real server on loopback): images, models, output, evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import caption, evaluate, generate_triples, train_value, world
from jobs.inputs.sources import find
from jobs.runner.part_files import read_rows
from jobs.runner.run_folder import is_complete, read_json
from visvm import storage
from visvm.models import WORLD


def upload(folder: Path, uri: str) -> str:
    for file in folder.iterdir():
        storage.send(file, f"{uri}/{file.name}")
    return uri


def test_images_of_a_bucket_are_those_of_the_folder(photos: Path, s3: str) -> None:
    uri = upload(photos, f"{s3}/photos")
    here = [(source.image_id, Path(source.uri).name) for source in find(str(photos))]
    there = [(source.image_id, source.uri.removeprefix(uri + "/")) for source in find(uri)]
    assert here == there and len(there) == 11
    with pytest.raises(ValueError, match="no such file or folder"):
        find(f"{s3}/none")


@pytest.fixture
def common(s3: str) -> list[str]:
    """The flags of images and models that all lie in the bucket."""
    assert world.main(["make", "--count", "6", "--out", f"{s3}/world"]) == 0
    policy, reward = (upload(WORLD / name, f"{s3}/{name}") for name in ("policy", "clip"))
    names = ["--images", f"{s3}/world", "--policy", policy, "--reward", reward]
    return [*names, "--max-new-tokens", "24", "--batch-size", "3"]


def make_triples(common: list[str], s3: str) -> None:
    assert generate_triples.main([*common, "--out", f"{s3}/triples"]) == 0
    rollouts = list(read_rows(f"{s3}/triples/rollouts"))
    assert len(rollouts) == 6 and all(row["uri"].startswith(f"{s3}/world") for row in rollouts)


@pytest.mark.ray
def test_a_job_in_a_bucket(common: list[str], s3: str) -> None:
    make_triples(common, s3)
    files = read_json(f"{s3}/triples/manifest.json")["files"]
    assert sum(one["rows"] for name, one in files.items() if name.startswith("rollouts/")) == 6


@pytest.mark.slow
@pytest.mark.ray
def test_the_loop_in_a_bucket(common: list[str], s3: str) -> None:
    """What is written there goes into the next job by its URI alone."""
    make_triples(common, s3)
    images, policy = f"{s3}/world", f"{s3}/policy"
    training = ["--policy", policy, "--rollouts", f"{s3}/triples", "--out", f"{s3}/value"]
    assert train_value.main([*training, "--epochs", "1", "--batch-size", "3", "--micro-batch-size", "3"]) == 0
    assert (
        storage.names(f"{s3}/value", "*")
        == [*(".lock", "config.yaml", "curve.jsonl", "inputs.json", "manifest.json", "metrics.json")][1:]
    )
    assert storage.is_folder(f"{s3}/value/checkpoints") and storage.is_folder(f"{s3}/value/tensorboard")

    captions = [*common, "--method", "visvm", "--value", f"{s3}/value/model", "--out", f"{s3}/captions"]
    assert caption.main(captions) == 0, list(read_rows(f"{s3}/captions/errors"))
    assert is_complete(f"{s3}/captions")
    judged = ["--captions", f"visvm={s3}/captions", "--coco", images, "--out", f"{s3}/table"]
    assert evaluate.main(judged) == 0
    table = read_json(f"{s3}/table/metrics.json")
    assert [(row["method"], row["num_images"]) for row in table["rows"]] == [("visvm", 6)]
    assert table["runs"][f"visvm={s3}/captions"]["policy"] == policy
