"""The benchmark compares programs that do the same work, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from safetensors.torch import load_file
from transformers import AutoProcessor

from jobs import benchmark
from tests.support.servers import running
from visvm.benchmark import ours, peer, published
from visvm.benchmark import random_models as sizes
from visvm.benchmark.parts import PROGRAMS, Part, Setup
from visvm.benchmark.programs import GAMMA, load, make_responses, pairs_of, value_model
from visvm.benchmark.sizes import SIZES
from visvm.benchmark.workload import SPREAD, Workload
from visvm.families import Family
from visvm.training.td import Response

WORK = Workload(num_sentences=3, sentence_length=5, num_prompts=2, response_length=6)
PARTS = [(part, name) for part, names in PROGRAMS.items() for name in names]


@pytest.mark.parametrize(("part", "name"), PARTS)
def test_every_program_does_its_work(part: str, name: str) -> None:
    tokens = load(part, name, Setup("tiny", WORK))()
    expected = {"search": 3 * 5 * 6, "rollouts": 2 * 5 * 6}
    if name in ("greedy", "generate"):
        assert tokens == 15
    elif part in expected:
        assert tokens == expected[part]
    else:
        assert tokens > 0


def test_natural_lengths_are_the_same_for_every_program_and_spread_around_the_mean() -> None:
    work = Workload(sentence_length=25, lengths="natural")
    lengths = [work.length(written, first) for written in range(8) for first in range(80)]
    assert sum(lengths) / len(lengths) == pytest.approx(25, rel=0.02)
    assert len(set(lengths)) == len(SPREAD)
    model, processor = sizes.build(SIZES["tiny"], device="cpu", dtype=torch.float32)
    work = Workload(num_sentences=3, sentence_length=5, lengths="natural", temperatures=(0.0,))
    shown = sizes.image(SIZES["tiny"])
    one = ours.search(ours.ForcedPolicy(model, processor, work, max_new_tokens=100), [shown])
    other = published.search(model, Family(model.model, processor), [shown], work, batched=False)
    assert one == other  # both greedy: the same tokens, so the same lengths


def test_sentences_have_the_tokens_they_should() -> None:
    _, processor = sizes.build(SIZES["tiny"], device="cpu", dtype=torch.float32)
    for text in Workload(sentence_length=7).sentences(20, seed=0):
        assert len(processor.tokenizer(text, add_special_tokens=False).input_ids) == 7


def test_the_bench_image_has_about_a_thousand_tokens() -> None:
    _, processor = sizes._llava_next(SIZES["bench"])
    shown = sizes.image(SIZES["bench"])
    ids = processor(images=[shown.pil], text=["<image>"]).input_ids[0]
    assert list(ids).count(processor.tokenizer.convert_tokens_to_ids("<image>")) == 1008


def test_published_and_shared_values_are_equal() -> None:
    model = value_model(*sizes.build(SIZES["tiny"], device="cpu", dtype=torch.float32))
    shown, sentences = sizes.image(SIZES["tiny"]), WORK.sentences(6, seed=0)
    plain, _ = published.values(model, shown, sentences)
    shared = [value for step in ours.values(model, shown, sentences, num_candidates=3) for value in step]
    assert [one[0].item() for one in plain] == pytest.approx(shared, abs=1e-4)


def test_pairs_are_those_of_the_responses() -> None:
    responses = make_responses("training-42", WORK)
    assert sum(len(one.sentences) for one in responses) == 42 == len(pairs_of(responses))
    assert pairs_of([Response(("a", "b"), (0.0, 0.0), stopped=False)]) == [("a", "b"), ("b", None)]


def test_published_training_moves_the_same_weights() -> None:
    model = value_model(*sizes.build(SIZES["tiny"], device="cpu", dtype=torch.float32))
    responses = [Response(WORK.sentences(3, seed=0), (0.0,) * 3, stopped=False)]
    shown, moved = sizes.image(SIZES["tiny"]), []
    for train in (
        lambda: published.train(model, shown, pairs_of(responses), GAMMA),
        lambda: ours.train(model, shown, responses),
    ):
        train()
        moved.append({key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()})
    assert moved[0] == moved[1]
    assert any("vision_tower" in key for key in moved[0])


def test_the_job_writes_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out" / "figures.json"
    flags = ["--model", "tiny", "--parts", "prefill", "--repeats", "2", "--json", str(path)]
    assert benchmark.main(flags) == 0
    figures = json.loads(path.read_text())
    assert figures["prefill"]["published_over_ours"] > 0
    assert set(figures["peak_memory_mib"]["prefill"]) == {"published", "ours"}
    assert len(figures["runs"]["prefill"]["ours"]) == 2
    assert figures["config"]["json"] == str(path)
    assert "published" in capsys.readouterr().out


@pytest.mark.parametrize(("part", "tokens"), [("peer-greedy", 15), ("peer-search", 3 * 5 * 6)])
def test_a_peer_does_the_same_work(part: Part, tokens: int) -> None:
    """Every candidate is a request that goes on from the last one of the sentence before."""
    app, bodies = FastAPI(), []

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: HttpRequest) -> dict[str, Any]:
        bodies.append(body := await request.json())
        text = f" {body['temperature']}-{len(body['messages'])}"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 9, "completion_tokens": body["max_tokens"], "total_tokens": 9}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": usage}

    with running(app) as url:
        assert load(part, "peer", Setup("tiny", WORK, peer=f"{url}/v1#tiny"))() == tokens
        assert 0 < peer.clock(f"{url}/v1")() <= psutil.Process().cpu_times().user + 600
    assert all(body["ignore_eos"] and body["min_tokens"] == body["max_tokens"] for body in bodies)
    if part == "peer-search":
        last = WORK.temperatures[-1]
        assert [len(body["messages"]) for body in bodies] == [1] * 6 + [2] * 12
        assert bodies[-1]["messages"][-1]["content"] == f" {last}-1 {last}-2"
        assert bodies[-1]["continue_final_message"]


def test_the_model_of_a_peer_has_the_hubs_names(tmp_path: Path) -> None:
    assert benchmark.main(["--model", "tiny", "--save-model", str(tmp_path)]) == 0
    names = [name for name in load_file(tmp_path / "model.safetensors") if "vision_tower" in name]
    assert names and all("vision_tower.vision_model." in name for name in names)
    assert list(AutoProcessor.from_pretrained(tmp_path).tokenizer(" badi").input_ids)


def test_ratios_are_medians_of_pairs() -> None:
    slow = [{"seconds": s, "tokens": 1.0, "peak_memory_mib": 2.0} for s in (4.0, 9.0, 100.0)]
    fast = [{"seconds": s, "tokens": 1.0, "peak_memory_mib": 1.0} for s in (2.0, 3.0, 1.0)]
    figures = benchmark.summary({"training-10": {"published": slow, "ours": fast}})
    assert figures["training"] == {"10": 3.0}
    assert figures["peak_memory_mib"]["training-10"] == {"published": 2.0, "ours": 1.0}


@pytest.mark.parametrize(
    "flags", [["--model", "70b"], ["--parts", "sleep"], ["--repeats", "0"], ["--peer", "http://h/v1"]]
)
def test_bad_usage_is_one_line(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
