"""Where images come from, what they are called, and what a job makes of them before any work."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.caption import CaptionConfig
from jobs.generate_triples import GenerateConfig
from jobs.inputs.sources import Source, draw, find
from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.units import keep_ids, make_units, unit_id
from tests.support import tiny
from tests.support.paths import ROOT
from visvm.config import load
from visvm.images import read
from visvm.models import WORLD, check_policy, check_reward, check_value, resolve
from visvm.prompts import DETAIL_PROMPTS, prompt_for


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def coco(folder: Path, names: list[str], file: str = "instances_test.json") -> Path:
    entries = [{"id": 7 + i, "file_name": name} for i, name in enumerate(names)]
    (folder / file).write_text(json.dumps({"images": entries, "annotations": []}))
    return folder / file


def test_a_folder_is_searched_through_and_other_files_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "sub/a.png", "notes.txt")
    assert find(str(tmp_path)) == [
        Source("b.JPG", str(tmp_path / "b.JPG")),
        Source("sub/a.png", str(tmp_path / "sub/a.png")),
    ]


def test_the_id_of_an_image_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    touch(tmp_path, "02.png")
    alone = find(str(tmp_path))
    touch(tmp_path, "02.jpg")
    assert [source.image_id for source in find(str(tmp_path))] == ["02.jpg", "02.png"]
    assert set(alone) < set(find(str(tmp_path)))


def test_a_run_of_an_earlier_version_is_resumed_under_its_ids(tmp_path: Path) -> None:
    touch(tmp_path, "02.png", "02.jpg", "03.png", "04.png")
    made = make_units(load(PipelineConfig, images=str(tmp_path), out="out"))
    prompt = {row["image_id"]: row["prompt"] for row in made.to_pylist()}
    done = {unit_id("02", prompt["02.png"]): "02.png", unit_id("04.png", prompt["04.png"]): "04.png"}
    kept = keep_ids(made, done, [str(tmp_path / name) for name in done.values()]).to_pylist()
    assert [row["image_id"] for row in kept] == ["02.jpg", "02", "03.png", "04.png"]
    assert [row["id"] in done for row in kept] == [False, True, False, True]


@pytest.mark.parametrize("place", ["images", "."])
def test_coco_json_or_its_folder(tmp_path: Path, place: str) -> None:
    touch(tmp_path / place, "a.png", "b.png")
    expected = [Source("7", str(tmp_path / place / "a.png")), Source("8", str(tmp_path / place / "b.png"))]
    file = coco(tmp_path, ["a.png", "b.png"])
    assert find(str(file)) == find(str(tmp_path)) == expected


def test_coco_images_elsewhere_need_image_root(tmp_path: Path) -> None:
    root = touch(tmp_path / "elsewhere", "a.png")
    file = coco(tmp_path, ["a.png", "lost.png"])
    with pytest.raises(ValueError, match="set --image-root"):
        find(str(file))
    assert [source.image_id for source in find(str(file), image_root=str(root))] == ["7", "8"]


def test_parquet_with_uris_or_bytes(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    pq.write_table(pa.table({"image_id": [5, 6], "uri": ["a.png", "s3://x/b.png"]}), tmp_path / "u.parquet")
    assert find(str(tmp_path / "u.parquet")) == [
        Source("5", str(tmp_path / "a.png")),
        Source("6", "s3://x/b.png"),
    ]
    hub = tmp_path / "hub"
    hub.mkdir()
    pq.write_table(pa.table({"image": [{"bytes": b"one", "path": "1"}] * 2}), hub / "h.parquet")
    found = find(str(hub))
    assert [source.image_id for source in found] == ["h-000000", "h-000001"]
    assert read(found[1].uri) == b"one"


def test_repeated_rows_are_one_image_but_one_id_for_two_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["x", "x"], "uri": ["/a.png", "/a.png"]}), file)
    assert find(str(file)) == [Source("x", "/a.png")]
    pq.write_table(pa.table({"id": ["x", "x"], "uri": ["/a.png", "/b.png"]}), file)
    with pytest.raises(ValueError, match=r"more than one image, such as 'x': .*/a\.png.*/b\.png"):
        find(str(file))


def test_what_cannot_be_a_source_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt", "bad.json")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    for name, reason in (
        ("missing", "no such file or folder"),
        (".", "cannot read"),
        ("notes.txt", "expected a folder, or a parquet, tar or JSON"),
        ("bad.json", "it begins with b'bad.json'"),
        ("bad.parquet", "cannot read"),
        ("text.parquet", "expected a column uri or path or file_name or image or bytes"),
    ):
        with pytest.raises(ValueError, match=reason):
            find(str(tmp_path / name))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="no images in it"):
        find(str(empty))
    coco(empty, [], "instances_a.json")
    with pytest.raises(ValueError, match="no images in it"):
        find(str(empty))
    coco(empty, [], "instances_b.json")
    with pytest.raises(ValueError, match=r"name one of .*instances_a\.json, instances_b\.json"):
        find(str(empty))


def test_a_sample_is_drawn_by_the_seed_alone() -> None:
    sources = [Source(f"{i:03d}", str(i)) for i in range(100)]
    drawn = draw(sources, 10, 3)
    assert drawn == draw(sources, 10, 3) == sorted(drawn)
    assert drawn != draw(sources, 10, 4)
    assert draw(sources, None, 0) == sources


def test_a_sample_of_more_than_there_are_is_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    sources = [Source("1", "1"), Source("2", "2")]
    assert draw(sources, 3, 0) == sources
    assert "sample = 3: there are only 2 images; all of them are taken" in caplog.text


def units(folder: Path, **options: object) -> list[dict[str, str]]:
    return make_units(load(PipelineConfig, images=str(folder), out="out", **options)).to_pylist()


def test_units_are_images_with_their_prompts(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    rows = units(tmp_path, seed=2)
    assert [(row["image_id"], row["prompt"]) for row in rows] == [
        (f"{x}.png", prompt_for(x, 2)) for x in "ab"
    ]
    every = units(tmp_path, prompts="all")
    assert [row["prompt"] for row in every] == [*DETAIL_PROMPTS, *DETAIL_PROMPTS]
    assert len({row["id"] for row in every}) == 18
    assert {row["id"] for row in rows} < {row["id"] for row in every}
    assert {row["prompt"] for row in units(tmp_path, prompts="Name it.")} == {"Name it."}


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": "al"},
        {"max_new_tokens": 0},
        {"top_p": 0},
        {"batch_size": 0},
        {"sample": 0},
        {"device": "gpu"},
        {"min_actors": 2},
        {"max_error_share": 2},
    ],
)
def test_impossible_values_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        load(PipelineConfig, images=".", out="out", **options)


def test_models_resolve_to_directories_or_hub_ids(
    tmp_path: Path, tiny_policy: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_policy(str(tiny_policy)) == str(tiny_policy)
    assert check_reward(str(tiny_clip), policy="world") == str(tiny_clip)
    assert resolve("org/name", "policy") == "org/name"
    assert check_reward("ViT-L-14-336/openai", policy="world") == "ViT-L-14-336/openai"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for missing in ("./model", "runs/model", "a/b/c", str(tmp_path / "model")):
        with pytest.raises(ValueError, match="no such directory"):
            resolve(missing, "policy")


def test_the_reward_follows_the_policy_unless_one_is_given(
    tiny_policy: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    onevision = str(tiny.save("llava_onevision", tmp_path / "onevision"))
    assert check_reward("auto", policy="world") == check_reward("world", policy="world")
    assert check_reward("auto", policy=str(tiny_policy)) == "ViT-L-14-336/openai"
    assert check_reward("auto", policy=onevision) == "ViT-SO400M-14-SigLIP-384/webli"
    assert check_reward(str(tiny_clip), policy=onevision) == str(tiny_clip)
    assert check_value(None, policy="world", predict="value") == str(WORLD / "value")


def test_models_that_do_not_fit_are_refused(tmp_path: Path, tiny_policy: Path, tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match="cannot read a model"):
        check_policy(str(tmp_path))
    with pytest.raises(ValueError, match="'t5' is not supported"):
        (tmp_path / "config.json").write_text('{"model_type": "t5"}')
        check_policy(str(tmp_path))
    with pytest.raises(ValueError, match=r"no open_clip_config\.json"):
        check_reward(str(tiny_policy), policy="world")
    for policy, predict in ((str(tiny_policy), "value"), ("world", "future")):
        with pytest.raises(ValueError, match="give --value DIR"):
            check_value(None, policy=policy, predict=predict)
    with pytest.raises(ValueError, match="not a value model"):
        check_value(str(tiny_policy), policy=str(tiny_policy), predict="value")


@pytest.mark.parametrize("config", [CaptionConfig, GenerateConfig])
def test_the_policys_config_for_a_gpu_is_valid(config: type[PipelineConfig]) -> None:
    """And holds what its comment says: 16 images of 293 MiB and 96 rows of 72 MiB."""
    path = ROOT / "cluster" / "policy_7b.yaml"
    loaded = load(config, path, images=".", out="out")
    assert loaded.cache_mb is not None
    assert loaded.max_images * 2368 / 8 + loaded.max_rows * 576 / 8 <= loaded.cache_mb
