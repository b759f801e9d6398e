"""Sizes from configurations, placing on nodes, hours by formula: on real configs, against hand-made sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from jobs import caption, plan
from jobs.capacity import cluster_spec, job_plan, preflight
from jobs.capacity.cluster_spec import GPUS, Cluster
from jobs.capacity.duration import Rates, actor_seconds, worker_seconds
from jobs.capacity.memory import actor_bytes, clip_parameters, size_of, worker_bytes
from jobs.capacity.preflight import Demand
from tests.support import tiny
from tests.support.paths import ROOT
from visvm.config import load
from visvm.engine import Engine
from visvm.families import Family
from visvm.families.size import model_size
from visvm.reward import ClipScorer

POLICY_7B = "llava-hf/llava-v1.6-mistral-7b-hf"
SIZES = {path.stem: str(path) for path in (ROOT / "cluster" / "sizes").glob("*.yaml")}


def cluster(**node: Any) -> Cluster:
    return Cluster.model_validate({"nodes": [{"cpus": 8, **node}]})


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_vl"])
def test_size_is_that_of_the_real_model(family: str, tmp_path: Path) -> None:
    path = str(tiny.save(family, tmp_path / family))
    size = model_size(AutoConfig.from_pretrained(path))
    model = AutoModelForImageTextToText.from_pretrained(path)
    assert size.num_parameters == sum(weight.numel() for weight in model.parameters())
    engine = Engine(Family(model.model, AutoProcessor.from_pretrained(path)))
    assert size.token_values == engine.family.layout.token_values


def test_reward_models_are_counted(tiny_clip: Path) -> None:
    scorer = ClipScorer.from_pretrained(str(tiny_clip))
    assert clip_parameters(str(tiny_clip)) == sum(weight.numel() for weight in scorer.model.parameters())


def test_policy_memory_is_the_sum_of_the_readme() -> None:
    """policy_7b.yaml says: a token 128 KiB, an image 293 MiB, a row 72 MiB, 11.4 GiB in all."""
    size = size_of(POLICY_7B)
    assert 2 * size.token_values == 128 * 2**10
    options = {"max_images": 16, "max_rows": 96, "max_new_tokens": 512, "cache_mb": None}
    (parts,) = actor_bytes({"policy": {"name": POLICY_7B, "dtype": "bfloat16", **options}})
    assert parts["policy weights"] == pytest.approx(15.1e9, rel=0.01)
    assert parts["images and rows"] == (16 * 2340 + 96 * 576) * 2**17
    (capped,) = actor_bytes({"policy": {"name": POLICY_7B, "dtype": "bfloat16", **options, "cache_mb": 100}})
    assert capped["images and rows"] == 100 * 2**20


def test_training_state_is_cut_by_zero() -> None:
    config = load(plan.TrainValueConfig, ROOT / "cluster" / "train_value_7b.yaml", rollouts=("r",), out="o")
    whole = config.model_copy(update={"deepspeed": None})
    num = size_of(POLICY_7B).num_parameters
    assert worker_bytes(whole)["weights and optimiser"] == 16 * num
    zero3 = config.model_copy(update={"deepspeed": {"zero_optimization": {"stage": 3}}})
    assert worker_bytes(zero3)["weights and optimiser"] == 2 * num


PAIR = [Demand("policy", 8, 8, cpus=1, gpus=0.8), Demand("reward", 1, 1, cpus=0.5, gpus=0.2)]


@pytest.mark.parametrize(
    ("demands", "node", "missing"),
    [
        (PAIR, {"cpus": 9, "gpus": 8}, None),
        (
            PAIR,
            {"cpus": 9, "gpus": 7},
            "policy: 8 actors of 1 CPU and 0.8 GPU each are .* room for 7",
        ),
        (PAIR, {"cpus": 8, "gpus": 8}, "reward: 1 actors .* there is room for 0: add nodes, or lower --min-"),
        ([Demand("pair", 4, 4, cpus=1, gpus=2)], {"gpus": 8}, None),
        ([Demand("pair", 5, 5, cpus=1, gpus=2)], {"gpus": 8}, "room for 4"),
        ([Demand("pair", 1, 1, cpus=1, gpus=2)], {"count": 2, "gpus": 1}, "room for 0"),
        ([Demand("big", 1, 1, cpus=9)], {"count": 3}, "room for 0"),
        (
            [Demand("fat", 1, 1, cpus=1, gpus=1, parts=[{"weights": 75e9}])],
            {"gpus": 1, "gpu": "H100"},
            "75.0",
        ),
        ([Demand("fat", 1, 1, cpus=1, gpus=1, parts=[{"weights": 73e9}])], {"gpus": 1, "gpu": "H100"}, None),
        ([Demand("fat", 1, 1, cpus=1, gpus=1, parts=[{"weights": 1e15}])], {"gpus": 1}, None),  # not known
        ([Demand("two", 1, 1, cpus=1, gpus=2, parts=[{"a": 73e9}] * 2)], {"gpus": 2, "gpu": "H100"}, None),
        ([Demand("wide", 2, 2, cpus=1, parts=[{"weights": 4e9}])], {"memory_gb": 10}, "8.0 GB are needed on"),
    ],
)
def test_what_does_not_fit_is_named(demands: list[Demand], node: dict[str, Any], missing: str | None) -> None:
    if missing is None:
        preflight.check(demands, cluster(**node))
        return
    with pytest.raises(ValueError, match=f"cannot hold this job: .*{missing}"):
        preflight.check(demands, cluster(**node))


def test_actors_that_share_a_gpu_share_its_memory() -> None:
    half = [Demand(name, 1, 1, cpus=1, gpus=0.5, parts=[{name: 40e9}]) for name in ("policy", "value")]
    assert preflight.shortfalls(half, cluster(gpus=1, gpu="H200")) == []
    (problem,) = preflight.shortfalls(half, cluster(gpus=1, gpu="H100"))
    assert problem.startswith("policy and value: 80.0 GB are needed on a H100 of 80 GB")


def test_what_needs_no_gpu_leaves_gpu_nodes_alone() -> None:
    both = Cluster.model_validate({"nodes": [{"cpus": 1, "gpus": 1}, {"cpus": 1}]})
    assert preflight.shortfalls([Demand("b", 1, 1, cpus=1), Demand("a", 1, 1, cpus=1, gpus=1)], both) == []


def test_hours_follow_the_formula() -> None:
    """By hand: 2 P T / F of prefill, then passes x the larger of launch, bandwidth and arithmetic."""
    size, gpu = size_of(POLICY_7B), GPUS["H100"]
    config = load(caption.CaptionConfig, images="i", out="o", policy=POLICY_7B, max_images=10)
    rates = Rates(pass_ms=0, flops_share=0.5, bandwidth_share=0.5)
    prefill = 2 * size.num_parameters * 2340 / (989e12 / 2)
    moved = 2 * (size.num_parameters + 10 * (2340 + 64 + 100) * size.token_values)
    decode = 8.2 * 25 * moved / (3.35e12 / 2) / 10
    models: dict[str, str | None] = {"policy": POLICY_7B}
    assert actor_seconds(config, POLICY_7B, models, gpu, rates) == pytest.approx(prefill + decode)
    slow = Rates(pass_ms=1000)
    assert actor_seconds(config, POLICY_7B, models, gpu, slow) == pytest.approx(8.2 * 25 / 10, rel=0.01)
    tuning = load(plan.JOBS["finetune"], ROOT / "cluster" / "finetune_7b.yaml", captions=("c",), out="o")
    step = 8 * size.num_parameters * (2340 + 264) / (989e12 * 0.4)
    assert worker_seconds(tuning, gpu, Rates()) == pytest.approx(step)


def test_search_costs_more_than_greedy_and_less_than_mcts() -> None:
    configs = {
        method: load(
            caption.CaptionConfig, ROOT / "cluster" / "policy_7b.yaml", images="i", out="o", method=method
        )
        for method in ("greedy", "prm", "visvm", "best_of_n", "mcts")
    }
    seconds = {
        method: actor_seconds(config, POLICY_7B, job_plan.models_of(config), GPUS["H200"], Rates())
        for method, config in configs.items()
    }
    greedy, prm, visvm, best_of_n, mcts = seconds.values()
    assert greedy < prm < visvm < min(best_of_n, mcts)


@pytest.mark.parametrize(
    ("size", "job", "config", "options"),
    [
        ("8xh100", "generate-triples", "policy_7b", ["min_actors=8", "max_actors=8"]),
        ("8xh100", "caption", "policy_7b", ["method=visvm", "min_actors=8", "max_actors=8"]),
        ("8xh100", "train-value", "train_value_7b", []),
        ("8xh100", "finetune", "finetune_7b", []),
        (
            "8xh200",
            "caption",
            "policy_7b",
            ["method=visvm", "max_images=32", "max_rows=192", "cache_mb=24000"],
        ),
        ("8xl4", "generate-triples", "policy_7b_24gb", ["min_actors=8", "max_actors=8"]),
        ("8xl4", "caption", "policy_7b_24gb", ["method=visvm", "num_gpus=2", "min_actors=4", "max_actors=4"]),
        ("8xl4", "train-value", "train_value_7b", []),
        ("8xl4", "finetune", "finetune_7b", ["micro_batch_size=1"]),
    ],
)
def test_shipped_configs_fit_the_shipped_sizes(
    size: str, job: str, config: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "--job",
        job,
        "--config",
        str(ROOT / "cluster" / f"{config}.yaml"),
        "--cluster",
        SIZES[size],
        "--json",
    ]
    for option in options:
        given += ["--set", option]
    status = plan.main(given)
    out = capsys.readouterr()
    assert (status, out.err) == (0, "")
    facts = json.loads(out.out)
    assert all(stage["room_for"] == stage["max_actors"] for stage in facts["stages"])
    assert facts["hours"] > 0


def test_a_plan_that_does_not_fit_exits_2_and_says_how_to_mend_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "cluster" / "policy_7b.yaml")
    status = plan.main(
        ["--job", "caption", "--set", "method=visvm", "--config", config, "--cluster", SIZES["8xl4"]]
    )
    out = capsys.readouterr()
    assert status == 2
    assert "CaptionWriter: 52.4 GB are needed on a L4 of 24 GB" in out.err
    assert "lower --cache-mb, --max-rows or --max-images" in out.err
    assert "value weights 15.1" in out.out


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"search": "tests.support.own:TwoSentences"}, {"reward"}),
        ({"method": "visvm", "scorer": "tests.support.own:shortest_first"}, set()),
        ({"method": "visvm"}, {"value"}),
    ],
)
def test_a_search_and_a_scorer_of_ones_own_are_planned_without_guesses(
    given: dict[str, Any], needed: set[str]
) -> None:
    config = load(caption.CaptionConfig, images="images", out="out", device="cuda", **given)
    gpu = cluster(gpus=1, gpu="H200", memory_gb=64)
    made = job_plan.make_plan("caption", config, gpu, num_images=10, rates=Rates())
    assert {name for name in ("reward", "value") if made.models[name]} == needed
    is_known = "scorer" not in given and "search" not in given
    assert (made.facts()["hours"] is not None) == is_known
    measured = job_plan.make_plan("caption", config, gpu, num_images=10, rates=Rates(seconds_per_image=2))
    assert measured.facts()["hours"] == pytest.approx(20 / 3600)


def test_cost_is_hours_by_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cluster.yaml"
    node = {"count": 3, "cpus": 8, "gpus": 1, "gpu": "H100", "price_per_hour": 2.0}
    path.write_text(json.dumps({"nodes": [node]}))
    given = ["--config", str(ROOT / "cluster" / "policy_7b.yaml"), "--cluster", str(path), "--json"]
    options = ["--set", "min_actors=2", "--set", "max_actors=2", "--job", "generate-triples"]
    assert plan.main([*given, *options, "--num-images", "7200", "--rate", "seconds_per_image=1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["actor_hours"], facts["hours"], facts["num_nodes"], facts["cost"]) == (2, 1, 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [{cpus: 8, gpuz: 1}]", "gpuz = 1: unknown key"),
        ("nodes: [{cpus: 8, gpus: 1, gpu: H1OO}]", "gpu is 'H1OO': expected one of"),
        ("nodes: [{gpus: 1}]", "cpus"),
        ("nodes: []", "nodes"),
    ],
)
def test_a_wrong_cluster_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        cluster_spec.read(str(tmp_path / "c.yaml"))


def test_the_job_is_found_by_the_keys_of_its_config(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("reward_num_gpus: 0.1\npolicy: world\n")
    assert plan.job_of(str(tmp_path / "a.yaml"), []) == "generate-triples"
    assert plan.job_of(None, ["method=greedy"]) == "caption"
    with pytest.raises(ValueError, match="--job train-value or finetune"):
        plan.job_of(str(ROOT / "cluster" / "finetune_7b.yaml"), [])


@pytest.mark.ray
def test_jobs_look_before_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    given = ["--images", str(photos), "--min-actors", "99", "--max-actors", "99", "--out"]
    assert caption.main([*given, str(tmp_path / "a")]) == 2
    err = capsys.readouterr().err
    assert "CaptionWriter: 99 actors of 1 CPU and 0 GPU each are needed, there is room for 4" in err
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".lock"]
    running = cluster_spec.running()
    assert [(node.cpus, node.gpus, node.count) for node in running.nodes] == [(4, 0, 1)]
    # A cluster that grows by itself is judged by what it may grow to.
    (tmp_path / "grown.yaml").write_text("nodes: [{cpus: 100, count: 2}]")
    monkeypatch.setenv(cluster_spec.CLUSTER_FILE, str(tmp_path / "grown.yaml"))
    preflight.check([Demand("many", 200, 200, cpus=1)])
    with pytest.raises(ValueError, match="room for 200"):
        preflight.check([Demand("many", 201, 201, cpus=1)])
