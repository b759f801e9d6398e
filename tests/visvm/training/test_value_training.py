"""Training value models in one process: data, steps, exact resume, diagnostics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import tiny
from visvm.images import load as load_image
from visvm.training.curve import Curve, read_curve
from visvm.training.diagnostics import Sentence, diagnose
from visvm.training.diverged import Diverged
from visvm.training.rollouts import (
    Loader,
    Rollout,
    from_rows,
    plan_batches,
    reward_statistics,
    worker_share,
)
from visvm.training.td import Response
from visvm.training.text_packing import Packer
from visvm.training.value_loop import ValueTrainer, ValueTraining, build
from visvm.value import ValueScorer, VisionValueModel

WORDS = ("A dog sits on a red bench.", "A cat sleeps under the table.", "The sky is blue.", "A cup.")


def row(image: str, rewards: list[float], *, prompt: str = "Describe.", more: Any = None) -> dict[str, Any]:
    """Return a row of the rollouts schema with one response."""
    response = {"sentences": list(WORDS[: len(rewards)]), "rewards": rewards, "finish_reason": "stop"}
    return {
        "id": f"{image}-{prompt}", "image_id": image, "uri": f"{image}.png", "content_hash": f"hash {image}",
        "responses": [response | (more or {})],
    }  # fmt: skip


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> list[Rollout]:
    """Return rollouts of twelve images in which sentences about a dog have the highest reward."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    out = []
    for i in range(12):
        path = folder / f"{i:02d}.png"
        tiny.image(i).pil.save(path)
        responses = []
        for stopped in (True, True, False):
            order = rng.permutation(4)[: rng.integers(1, 5)]
            rewards = tuple(0.3 if j == 0 else 0.1 for j in order)
            responses.append(Response(tuple(WORDS[j] for j in order), rewards, stopped))
        image = load_image(str(path))
        out.append(Rollout(image.id, image.uri, image.content_hash, tuple(responses)))
    return out


def trainer(policy: Path, rollouts: list[Rollout], **settings: Any) -> ValueTrainer:
    config = ValueTraining(
        **{"epochs": 2, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 1e-3, **settings}
    )
    model = build(str(policy), rollouts, config)
    return ValueTrainer(model, config, train=rollouts, held_out=rollouts[:3], device=torch.device("cpu"))


def run(one: ValueTrainer) -> list[dict[str, Any]]:
    """Return the curve of a run."""
    curve: list[dict[str, Any]] = []
    one.run(log=curve.append, checkpoint=lambda: None)
    return curve


def weights(one: ValueTrainer) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in one.model.state_dict().items()}


def test_rows_of_one_image_are_joined_and_sorted() -> None:
    rows = [row("b", [0.1]), row("a", [0.2, 0.3]), row("b", [0.4], prompt="What?")]
    joined = from_rows(rows)
    assert joined == from_rows(rows[::-1])
    assert [(one.image_id, one.num_pairs) for one in joined] == [("a", 2), ("b", 2)]
    assert reward_statistics(joined)[0] == pytest.approx(0.25)


def test_equal_rewards_are_not_scaled_up() -> None:
    assert np.std([0.1] * 3) > 0, "but for rounding"
    assert reward_statistics(from_rows([row("a", [0.1] * 3)]))[1] == 1
    with pytest.raises(ValueError, match="nothing can be learned"):
        reward_statistics([])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", [0.1, float("nan")])], "rewards"),
        ([row("a", [0.1], more={"rewards": [0.1, 0.2]})], "1 sentences"),
        ([row("a", [0.1], more={"sentences": [" "]})], "empty sentence"),
        ([row("a", [0.1]), row("a", [0.1], prompt="B") | {"content_hash": "other"}], "two images"),
    ],
)
def test_malformed_rollouts_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_rows(rows)


def test_an_epoch_has_every_image_once_in_batches_of_similar_size() -> None:
    sizes = np.random.default_rng(1).integers(1, 1000, 500).tolist()
    batches = plan_batches(sizes, batch_size=8, seed=3)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert batches == plan_batches(sizes, batch_size=8, seed=3) != plan_batches(sizes, batch_size=8, seed=4)
    spreads = [max(sizes[i] for i in batch) - min(sizes[i] for i in batch) for batch in batches]
    assert np.mean(spreads) < 150, "random batches would spread over about 780"


@pytest.mark.parametrize("num_workers", [1, 2, 3, 7])
def test_all_workers_get_equally_many_micro_batches(num_workers: int) -> None:
    parts = [
        worker_share(range(5), rank=r, num_workers=num_workers, micro_batch_size=2)
        for r in range(num_workers)
    ]
    assert len({tuple(map(len, own)) for own in parts}) == 1
    assert sorted(i for own in parts for part in own for i in part if i is not None) == [0, 1, 2, 3, 4]


def test_a_missing_or_changed_image_is_counted_and_not_trained_on(
    tiny_policy: Path, rollouts: list[Rollout]
) -> None:
    gone = Rollout("gone", "/nowhere.png", "x", rollouts[0].responses)
    changed = Rollout("changed", rollouts[1].uri, "another hash", rollouts[1].responses)
    model = VisionValueModel.from_policy(str(tiny_policy))
    loader = Loader([rollouts[0], gone, changed], model.family, Packer(model.reader), cache_mb=1)
    part = loader.load([0, 1, 2, None])
    assert len(part.pairs) == rollouts[0].num_pairs
    assert set(loader.failed) == {"gone", "changed"}
    assert torch.isfinite(model(part.inputs, part.packed)).all()
    assert model(loader.load([1]).inputs, loader.load([None]).packed).shape == (0, 2)


def test_training_learns_which_sentences_are_worth_more(tiny_policy: Path, rollouts: list[Rollout]) -> None:
    one = trainer(
        tiny_policy, rollouts, epochs=20, batch_size=2, gamma=0.0, learning_rate=2e-3, save_steps=1e6
    )
    curve = run(one)
    losses = [entry["td_loss"] for entry in curve if "td_loss" in entry]
    assert np.mean(losses[-5:]) < 0.1 * np.mean(losses[:5])
    held_out = [entry["held_out"] for entry in curve if "held_out" in entry][-1]
    assert held_out["explained_variance"] > 0.9
    assert held_out["correlation"]["return_within_image"] > 0.9


def test_training_that_diverges_publishes_nothing(
    tiny_policy: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    one = trainer(tiny_policy, rollouts, learning_rate=1e30)
    with pytest.raises(Diverged, match="lower the learning rate"):
        run(one)
        one.export(tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_weights_that_are_not_finite_are_not_exported(
    tiny_policy: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    one = trainer(tiny_policy, rollouts)
    with torch.no_grad():
        one.model.head.weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match=r"head\.weight"):
        one.export(tmp_path / "model")
    with pytest.raises(Diverged, match="is nan at step 1"):
        run(one)


def test_training_works_without_held_out_images(tiny_policy: Path, rollouts: list[Rollout]) -> None:
    config = ValueTraining(epochs=1, batch_size=12, micro_batch_size=12)
    model = build(str(tiny_policy), rollouts, config)
    one = ValueTrainer(model, config, train=rollouts, held_out=[], device=torch.device("cpu"))
    assert [set(entry) & {"held_out", "td_loss"} for entry in run(one)] == [{"td_loss"}]


@pytest.mark.parametrize("settings", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_micro_batches_and_checkpointing_do_not_change_the_result(
    tiny_policy: Path, rollouts: list[Rollout], settings: dict[str, Any]
) -> None:
    """Micro-batches are weighted by their pairs, not by their images."""
    a = trainer(tiny_policy, rollouts, epochs=1, batch_size=6, micro_batch_size=6)
    b = trainer(tiny_policy, rollouts, epochs=1, **{"batch_size": 6, "micro_batch_size": 6, **settings})
    run(a), run(b)
    question = tiny_question()
    assert ValueScorer(a.model).score([question])[0] == pytest.approx(
        ValueScorer(b.model).score([question])[0], abs=1e-3
    )


def tiny_question() -> Any:
    from visvm.records import Question

    return Question(tiny.image(0), "", (), WORDS, (False,) * 4)


def test_a_resumed_run_ends_with_the_same_weights(
    tiny_policy: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    whole = trainer(tiny_policy, rollouts)
    run(whole)
    cut = trainer(tiny_policy, rollouts, save_steps=2)

    class Stop(Exception):
        pass

    def checkpoint() -> None:
        cut.save(tmp_path)
        raise Stop

    with pytest.raises(Stop):
        cut.run(log=lambda entry: None, checkpoint=checkpoint)
    again = trainer(tiny_policy, rollouts)
    again.load(tmp_path)
    assert again.step == 2
    run(again)
    for key, value in weights(whole).items():
        assert torch.equal(value, again.model.state_dict()[key]), key


def test_bfloat16_computes_in_half_and_keeps_head_and_weights(
    tiny_policy: Path, rollouts: list[Rollout], tmp_path: Path
) -> None:
    one = trainer(tiny_policy, rollouts, epochs=1, bf16=True)
    curve = run(one)
    assert all(np.isfinite(entry["td_loss"]) for entry in curve if "td_loss" in entry)
    assert {p.dtype for p in one.model.parameters()} == {torch.float32}
    one.export(tmp_path / "model")
    loaded = VisionValueModel.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert torch.equal(loaded.head.weight, one.model.head.weight)
    body = next(one.model.base.parameters())
    assert torch.equal(next(loaded.base.parameters()), body.bfloat16().float())


def diagnosed(value: np.ndarray, rows: list[Sentence]) -> dict[str, Any]:
    return diagnose(rows, np.stack([value, np.ones(len(rows))], axis=1), np.zeros((len(rows), 2)))


def test_diagnostics_tell_a_length_predictor_from_a_value_model() -> None:
    rng = np.random.default_rng(0)
    rows = [
        Sentence(
            i // 6, i % 6, 5 - i % 6, int(rng.integers(3, 9)), 40, float(rng.normal() + (5 - i % 6)), 1.0
        )
        for i in range(600)
    ]
    returns = np.array([one.value_return for one in rows])
    perfect = diagnosed(returns, rows)
    assert perfect["explained_variance"] == pytest.approx(1)
    assert perfect["length_only"]["partial_correlation_of_value_with_return"] == pytest.approx(1)
    assert 0.5 < perfect["length_only"]["explained_variance"] < 0.9
    ruler = diagnosed(np.array([one.remaining + rng.normal() * 0.01 for one in rows]), rows)
    assert ruler["correlation"]["return"] > 0.8
    assert abs(ruler["length_only"]["partial_correlation_of_value_with_return"]) < 0.15
    constant = diagnosed(np.ones(600), rows)
    assert constant["explained_variance"] == pytest.approx(0)
    assert constant["correlation"]["return"] is None


def test_a_cut_response_has_no_return() -> None:
    rows = [Sentence(0, 0, 1, 3, 6, np.nan, np.nan), Sentence(0, 1, 0, 3, 6, 1.0, 1.0)]
    metrics = diagnosed(np.array([5.0, 1.0]), rows)
    assert metrics["num_sentences"] == 2
    assert metrics["by_position"] == [{"position": 1, "num": 1, "value": 1.0, "return": 1.0}]


def test_a_curve_resumes_after_its_checkpoint(tmp_path: Path) -> None:
    curve = Curve(str(tmp_path))
    for step in (1, 2, 3):
        curve.add({"step": step, "td_loss": float(step)})
    (tmp_path / "curve.jsonl").open("a").write('{"step": 4, "td_')
    again = Curve(str(tmp_path), step=2)
    again.add({"step": 3, "td_loss": 30.0})
    assert [entry["td_loss"] for entry in again.close()] == [1.0, 2.0, 30.0]
    assert read_curve(str(tmp_path / "none.jsonl")) == []
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl"])
def test_the_vision_encoder_stays_frozen_on_demand(
    tmp_path: Path, rollouts: list[Rollout], name: str
) -> None:
    policy = tiny.save(name, tmp_path / name)
    for train_vision in (True, False):
        one = trainer(policy, rollouts, epochs=1, train_vision=train_vision)
        encoder = {id(p) for p in one.model.family.vision.parameters()}
        before = {key: p.detach().clone() for key, p in one.model.named_parameters()}
        run(one)
        moved = {id(p) for key, p in one.model.named_parameters() if not torch.equal(p, before[key])}
        assert bool(moved & encoder) == train_vision
        assert moved - encoder
