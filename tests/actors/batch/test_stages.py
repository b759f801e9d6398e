"""The actors are plain classes over tables: what they compute, and what a bad row does to the others."""

import weakref
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from actors.batch import rows as rows_module
from actors.batch.caption import CaptionWriter
from actors.batch.generate import Generate, Reward
from actors.batch.rows import UNITS, Row, each, load
from tests.support import tiny
from visvm.images import content_hash
from visvm.images import load as load_image
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request
from visvm.reward import ClipScorer
from visvm.schemas import CAPTIONS, ROLLOUTS
from visvm.sentences import split_sentences
from visvm.value import VisionValueModel

SHORT = {"max_new_tokens": 30, "top_p": 0.9}
TEMPERATURES = (0.0, 0.7, 0.9)


@pytest.fixture(scope="module")
def value(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a value model with a random head."""
    torch.manual_seed(0)
    model = VisionValueModel.from_policy(str(tiny_policy))
    torch.nn.init.normal_(model.head.weight)
    folder = tmp_path_factory.mktemp("value")
    model.save_pretrained(folder)
    return folder


def units(photos: Path, *names: str) -> pa.Table:
    rows = [
        {"id": f"unit-{name}", "image_id": name, "uri": str(photos / name), "prompt": "Describe it."}
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def by_image(table: pa.Table) -> dict[str, Row]:
    return {row["image_id"]: row for row in table.to_pylist()}


def test_a_file_is_read_or_its_reason_kept(photos: Path) -> None:
    rows = {row["image_id"]: row for row in load(units(photos, "000.png", "missing.png", "empty.jpg"))}
    assert rows["000.png"]["image"].content_hash == content_hash((photos / "000.png").read_bytes())
    assert rows["000.png"]["error"] is None and rows["000.png"]["image"].uri == str(photos / "000.png")
    assert rows["missing.png"]["stage"] == "read" and "No such file" in rows["missing.png"]["error"]
    assert rows["empty.jpg"]["stage"] == "decode" and "zero bytes" in rows["empty.jpg"]["error"]


def test_a_file_is_read_once_for_all_its_prompts(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(rows_module, "read", lambda uri: read.append(uri) or Path(uri).read_bytes())
    prompts = [units(photos, "000.png"), units(photos, "001.png"), units(photos, "000.png")]
    loaded = load(pa.concat_tables(prompts))
    assert sorted(read) == [str(photos / "000.png"), str(photos / "001.png")]
    assert loaded[0]["image"] is loaded[2]["image"]


@pytest.fixture(scope="module")
def rolled(tiny_policy: Path, photos: Path) -> pa.Table:
    generate = Generate({"name": str(tiny_policy), **SHORT}, temperatures=TEMPERATURES, seed=5)
    return generate(units(photos, "000.png", "missing.png", "empty.jpg", "cut.png", "001.png"))


def test_responses_are_those_of_the_policy(rolled: pa.Table, tiny_policy: Path, photos: Path) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(tiny_policy), **SHORT)
    for name in ("000.png", "001.png"):
        image = load_image(str(photos / name), id=name)
        row = by_image(rolled)[name]
        branch = policy.open([Request(image, "Describe it.", 5)])
        [expected] = policy.propose(branch, TEMPERATURES, whole=True)
        assert row["content_hash"] == image.content_hash
        assert [r["text"] for r in row["responses"]] == [c.text for c in expected]
        assert [r["num_tokens"] for r in row["responses"]] == [len(c.token_ids) for c in expected]
        assert [r["finish_reason"] for r in row["responses"]] == [c.finish_reason for c in expected]
        assert [r["temperature"] for r in row["responses"]] == pytest.approx(TEMPERATURES)
        assert all(r["sentences"] == split_sentences(r["text"]) for r in row["responses"])


def test_an_image_replaced_since_its_responses_is_an_error(
    rolled: pa.Table, tiny_clip: Path, photos: Path, tmp_path: Path
) -> None:
    row = by_image(rolled)["000.png"]
    (tmp_path / "000.png").write_bytes((photos / "001.png").read_bytes())
    changed = pa.Table.from_pylist([{**row, "uri": str(tmp_path / "000.png")}], schema=rolled.schema)
    [rewarded] = Reward({"name": str(tiny_clip)})(changed).to_pylist()
    assert rewarded["stage"] == "reward" and "changed while" in rewarded["error"]


def test_rewards_are_those_of_the_scorer(rolled: pa.Table, tiny_clip: Path, photos: Path) -> None:
    rewarded = Reward({"name": str(tiny_clip)})(rolled)
    scorer = ClipScorer.from_pretrained(str(tiny_clip))
    assert rewarded.schema.names == [*ROLLOUTS.names, "stage", "error"]
    rows = by_image(rewarded)
    for name in ("000.png", "001.png"):
        image = load_image(str(photos / name), id=name)
        for response in rows[name]["responses"]:
            [expected] = scorer.similarities([image], [response["sentences"]])
            assert response["rewards"] == pytest.approx(expected, abs=1e-6)
    assert {name: row["stage"] for name, row in rows.items() if row["error"]} == {
        "missing.png": "read",
        "empty.jpg": "decode",
        "cut.png": "decode",
    }


@pytest.fixture(scope="module")
def scorers(tiny_clip: Path, value: Path) -> dict[str, dict[str, Any]]:
    nothing = {"reward": None, "value": None}
    prm = {"reward": {"name": str(tiny_clip)}, "value": None}
    learned = {"reward": None, "value": {"name": str(value), "centre": 0.1}}
    return {"greedy": nothing, "prm": prm, "best_of_n": prm, "visvm": learned}


@pytest.mark.parametrize("method", ["greedy", "prm", "visvm", "best_of_n"])
def test_captions_do_not_depend_on_the_batch(
    method: str, tiny_policy: Path, photos: Path, scorers: dict[str, dict[str, Any]]
) -> None:
    search = {"temperatures": (0.5, 0.9), "samples_per_temperature": 2}
    writer = CaptionWriter(
        {"name": str(tiny_policy), **SHORT}, method=method, search=search, scorer=scorers[method], seed=1
    )
    names = ("000.png", "cut.png", "001.png", "002.png")
    together = by_image(writer(units(photos, *names)))
    assert "truncated" in together.pop("cut.png")["error"]
    for name, row in together.items():
        [alone] = writer(units(photos, name)).to_pylist()
        same = [column for column in CAPTIONS.names if column not in ("seconds", "values", "trace")]
        assert {column: row[column] for column in same} == {column: alone[column] for column in same}
        assert row["method"] == method and row["caption"] == "".join(row["sentences"])
        assert (row["num_value_calls"] > 0) == (method != "greedy")
        assert (len(row["trace"]) > 0) == (method != "greedy")
        for step in row["trace"]:
            values = [candidate["value"] for candidate in step["candidates"]]
            assert values[step["choice"]] == max(values)


def test_a_batch_is_computed_to_the_bit_alike_whatever_the_actor_did_before(
    tiny_policy: Path, tiny_clip: Path, photos: Path, scorers: dict[str, dict[str, Any]]
) -> None:
    batches = [units(photos, *names) for names in (("000.png", "001.png", "002.png"), ("003.png", "001.png"))]
    policy = {"name": str(tiny_policy), **SHORT}
    search: dict[str, Any] = {"temperatures": (0.5,), "samples_per_temperature": 2}

    def actors() -> list[Any]:
        generate = Generate(policy, temperatures=TEMPERATURES, seed=5)
        reward = Reward({"name": str(tiny_clip)})
        writer = CaptionWriter(policy, method="visvm", search=search, scorer=scorers["visvm"], seed=5)
        return [lambda batch: reward(generate(batch)), lambda batch: writer(batch).drop(["seconds"])]

    for used, new in zip(actors(), actors(), strict=True):
        used(batches[0])
        after = used(batches[1])
        assert after.equals(new(batches[1])) and after["error"].null_count == 2


def test_what_a_failed_try_holds_is_given_back_before_the_halves_run() -> None:
    """Not at some later time: a halved batch that ran out of memory has to find room."""

    class Large:
        """Stands for tensors; refers to itself, as tracebacks and models do."""

        def __init__(self) -> None:
            self.me = self

    held: list[weakref.ref[Large]] = []

    def work(rows: list[Row]) -> list[Row]:
        assert all(ref() is None for ref in held)
        large = Large()
        if len(rows) > 1:
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [{**row, "done": large is not None} for row in rows]

    rows = [{"id": i, "image_id": str(i), "error": None} for i in range(4)]
    assert all(row["done"] for row in each(rows, work, stage="test"))
    assert len(held) == 3


def test_a_lost_gpu_is_no_fault_of_the_rows() -> None:
    def work(rows: list[Row]) -> list[Row]:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        each([{"id": 1, "image_id": "1", "error": None}], work, stage="test")


def test_a_batch_that_fails_is_halved_until_the_rows_at_fault_stand_alone() -> None:
    calls = []

    def work(rows: list[Row]) -> list[Row]:
        calls.append([row["id"] for row in rows])
        if any(row["id"] in (3, 6) for row in rows):
            raise RuntimeError("out of memory")
        return [{**row, "done": True} for row in rows]

    rows = [{"id": i, "image_id": str(i), "error": "old" if i == 1 else None} for i in range(8)]
    result = each(rows, work, stage="test")
    assert [row["id"] for row in result] == list(range(8))
    assert [row["id"] for row in result if row.get("done")] == [0, 2, 4, 5, 7]
    assert [row["error"] for row in result if row["error"]] == ["old"] + ["RuntimeError: out of memory"] * 2
    assert calls[0] == [0, 2, 3, 4, 5, 6, 7]
    assert each([], work, stage="test") == []


@pytest.mark.ray
def test_captions_are_the_same_alone_in_a_batch_and_across_two_actors(
    tiny_clip: Path, tmp_path: Path
) -> None:
    """For every family, images of four shapes; searched with the reward."""
    import ray

    folders = {name: str(tiny.save(name, tmp_path / name)) for name in tiny.NAMES}
    for i in range(8):
        tiny.image(i, width=30 + 10 * (i % 4), height=64 - 8 * (i % 3)).pil.save(tmp_path / f"{i}.png")
    eight = units(tmp_path, *(f"{i}.png" for i in range(8)))

    class Writers:
        """A writer of each family, in one process."""

        def __init__(self) -> None:
            scorer = {"reward": {"name": str(tiny_clip)}, "value": None}
            self.writers = {
                name: CaptionWriter({"name": folder, **SHORT}, method="prm", search={}, scorer=scorer, seed=3)
                for name, folder in folders.items()
            }

        def write(self, rows: pa.Table) -> list[Row]:
            tables = [writer(rows).to_pylist() for writer in self.writers.values()]
            return [{key: row[key] for key in ("caption", "trace")} for table in tables for row in table]

    local = Writers()
    together = local.write(eight)
    alone = [local.write(eight.slice(i, 1)) for i in range(8)]
    actors = [ray.remote(Writers).options(num_cpus=0.5).remote() for _ in range(2)]
    halves = ray.get([actor.write.remote(eight.slice(4 * i, 4)) for i, actor in enumerate(actors)])
    for family in range(len(folders)):
        batch = together[8 * family : 8 * family + 8]
        assert [strip(row) for row in batch] == [strip(rows[family]) for rows in alone]
        shared = [row for half in halves for row in half[4 * family : 4 * family + 4]]
        assert [strip(row) for row in batch] == [strip(row) for row in shared]
    assert len({row["caption"] for row in together}) > 8


def strip(row: Row) -> tuple:
    """What does not depend on the rounding of sums over other batches."""
    texts = [[one["text"] for one in step["candidates"]] for step in row["trace"]]
    return row["caption"], texts, [step["choice"] for step in row["trace"]]


def test_actors_refuse_tables_of_another_schema(tiny_clip: Path) -> None:
    with pytest.raises(AssertionError):
        Reward({"name": str(tiny_clip)})(UNITS.empty_table())
