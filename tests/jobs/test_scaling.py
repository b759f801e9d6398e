"""The scaling model: what holds a job up, against its own measurement; shards that share the images."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from jobs.pipeline.config import PipelineConfig
from jobs.pipeline.units import make_units
from jobs.scaling import Figures, forecast, table
from tests.support.paths import ROOT
from visvm.config import load

CLUSTER = json.loads((ROOT / "docs" / "results" / "cluster.json").read_text())
MEASURED = json.loads((ROOT / "docs" / "results" / "scaling.json").read_text())


def test_the_figures_are_the_measured_ones() -> None:
    figures = Figures()
    assert figures.rows_per_second == pytest.approx(MEASURED["driver_rows_per_second"], rel=0.05)
    assert figures.row_bytes == pytest.approx(MEASURED["row_bytes"], rel=0.05)
    peaks = CLUSTER["memory"]["peak_mib"]
    growth = (peaks["20000"]["driver"] - peaks["1000"]["driver"]) * 2**20 / 19_000
    assert figures.unit_bytes == pytest.approx(growth, rel=0.05)


def test_two_actors_are_as_fast_as_the_largest_part_allows() -> None:
    """The parts on two cores: half of what one actor needs by the clock, and half of all CPU time."""
    actors = CLUSTER["actors"]
    one, two, cpu = (
        median(run[key] for run in actors[num])
        for num, key in (("one", "wall_per_image"), ("two", "wall_per_image"), ("two", "cpu_per_image"))
    )
    assert two == pytest.approx(max(one / 2, cpu / actors["cores"]), rel=0.15)


def test_gpus_are_the_limit_until_s3_is_and_then_the_driver() -> None:
    """At 0.67 s and 2 GETs an image 5,500 GETs a second feed 1,842 GPUs, and a driver 5,159."""
    assert [forecast(num, 10**9)["limit"] for num in (1_800, 1_900)] == ["gpus", "s3_gets"]
    prefixes = Figures(gets_per_second=10 * 5_500)
    limits = [forecast(num, 10**9, figures=prefixes)["limit"] for num in (5_000, 5_300)]
    assert limits == ["gpus", "driver"]
    assert forecast(5_300, 10**9, shards=2, figures=prefixes)["limit"] == "gpus"


def test_twice_the_gpus_halve_the_time_of_long_jobs_only() -> None:
    long = [forecast(num, 10**8)["total_hours"] for num in (64, 128)]
    assert long[0] / long[1] == pytest.approx(2, rel=0.01)
    short = [forecast(num, 10**5)["total_hours"] for num in (256, 512)]
    assert short[0] / short[1] < 1.4  # start and the last batches


def test_shards_are_needed_for_memory_before_rate() -> None:
    assert forecast(512, 10**6)["shards_needed"] == 1
    assert forecast(512, 10**8)["shards_needed"] == 7  # 220 GB of units, 32 a driver


def test_the_document_shows_the_table() -> None:
    assert table() in (ROOT / "docs" / "scaling.md").read_text()


def test_shards_share_the_images(photos: Path) -> None:
    def ids(shard: str) -> list[str]:
        config = load(PipelineConfig, images=str(photos), out="out", shard=shard)
        return make_units(config)["id"].to_pylist()

    parts = [ids(f"{part}/3") for part in range(3)]
    assert sorted(one for part in parts for one in part) == sorted(ids("0/1"))
    assert all(parts)


@pytest.mark.parametrize("shard", ["3/3", "1", "0/0", "-1/2"])
def test_an_impossible_shard_is_refused(shard: str) -> None:
    with pytest.raises(ValueError, match="shard"):
        load(PipelineConfig, images=".", out="out", shard=shard)
