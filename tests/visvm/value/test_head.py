"""Heads: the numbers they give, on the states of their own policy and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import visvm
from tests.support import tiny
from visvm.models import WORLD
from visvm.policy import SharedPrefixPolicy
from visvm.records import Question, Request
from visvm.search import BestOfN, Stepwise
from visvm.training.head_fit import HeadFitter, StatedResponse
from visvm.training.td import Response
from visvm.value.head import READS, HeadConfig, ValueHead, fingerprint, head_config
from visvm.value.head_scorer import HeadScorer, read_responses, read_states
from visvm.world import checks
from visvm.world.scenes import layout


def random_head(policy: SharedPrefixPolicy, **config: float) -> ValueHead:
    hidden = policy.family.text_config.hidden_size
    given = {"gamma": 0.9, "reward_centre": 0.4, "reward_scale": 0.1} | config
    known = {"policy": "world", "fingerprint": fingerprint(policy.family.base), "hidden_size": hidden}
    generator = torch.Generator().manual_seed(0)
    weights = {reads: torch.randn(hidden + 1, 3, generator=generator) / hidden for reads in READS}
    return ValueHead(HeadConfig(**known, **given), weights)


@pytest.fixture(scope="module")
def world() -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"))


@pytest.fixture(scope="module")
def request_() -> Request:
    return checks.request(layout("validation", 3))


def test_values_in_stream_equal_those_of_sentences_read_again(world, request_) -> None:
    head = HeadScorer(random_head(world), world)
    (branch,) = world.open([request_])
    for _ in range(2):
        (candidates,) = world.propose([branch], [0.0, 0.5, 0.9])
        own = [one for one in candidates if not one.ended]
        texts, flags = [one.text for one in own], (False,) * len(own)
        asked = Question(request_.image, request_.prompt, branch.sentences, tuple(texts), flags)
        assert head.score_candidates(branch, own) == pytest.approx(head.score([asked])[0], abs=1e-4)
        (branch,) = world.commit([branch], [own[0]])


@pytest.mark.parametrize("name", tiny.NAMES)
def test_the_state_of_a_candidate_is_that_behind_its_last_token(name: str, tmp_path: Path) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(tiny.save(name, tmp_path)), max_new_tokens=12)
    (branch,) = policy.open([Request(tiny.image(1), "Describe.")])
    (candidates,) = policy.propose([branch], [0.0, 1.0, 1.0])
    for one, state in zip(candidates, policy.states(branch, candidates), strict=True):
        ids = list(one.token_ids)[: -1 if one.finish_reason == "length" else None]
        row = [*policy.family.prompt_ids("Describe."), *ids]
        hidden, _ = policy.engine.read([branch.prefix], [row])
        torch.testing.assert_close(state, hidden[0, -1], atol=1e-4, rtol=1e-4)


def test_what_ends_a_caption_has_no_future(world) -> None:
    head = random_head(world)
    outputs = torch.tensor([[0.5, 2.0, 4.0], [0.5, 2.0, 4.0]])
    going_on, ended = head.values(outputs, torch.tensor([False, True]), centre=0.4).tolist()
    assert going_on == pytest.approx((0.1 + 0.9 * (2.0 - 0.4 * 4.0)) / 0.1)
    assert ended == pytest.approx(1.0)


def test_a_head_is_refused_with_another_policy(world, tiny_policy: Path, tmp_path: Path) -> None:
    random_head(world).save_pretrained(tmp_path)
    HeadScorer(ValueHead.from_pretrained(str(tmp_path)), world)
    other = SharedPrefixPolicy.from_pretrained(str(tiny_policy))
    with pytest.raises(ValueError, match="trained on the states of 'world'"):
        HeadScorer(ValueHead.from_pretrained(str(tmp_path)), other)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 20_000


def test_a_fingerprint_tells_weights_and_not_their_precision() -> None:
    layers = [torch.nn.Linear(30, 20) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    assert fingerprint(layers[0]) == fingerprint(layers[1]) == fingerprint(layers[1].to(torch.bfloat16))
    layers[0].weight.data += 0.5
    assert fingerprint(layers[0]) != fingerprint(layers[1])


@pytest.mark.parametrize(("file", "told"), [("config.json", "config.json"), ("weights", "does not fit")])
def test_a_broken_head_is_told(world, tmp_path: Path, file: str, told: str) -> None:
    random_head(world).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    broken = config.replace("gamma", "gama") if file == "config.json" else config.replace(": 128", ": 64")
    (tmp_path / "config.json").write_text(broken)
    with pytest.raises(ValueError, match=told):
        ValueHead.from_pretrained(str(tmp_path))


def test_another_folder_is_no_head(tmp_path: Path) -> None:
    assert head_config(str(WORLD / "value")) is None
    with pytest.raises(ValueError, match="holds no head"):
        ValueHead.from_pretrained(str(tmp_path))


def test_responses_are_read_once_and_give_the_same_states(world, request_) -> None:
    responses = [
        ("A cup is at the top.", " This is a street."),
        (" Overall, it is a farm.", " A cup is at the top."),
    ]
    states = read_responses(world, request_.image, request_.prompt, responses)
    for reads in READS:
        questions = [
            Question(request_.image, request_.prompt, one[:i], (text,), (False,))
            for one in responses
            for i, text in enumerate(one)
        ]
        expected = torch.cat(read_states(world, questions, reads))
        torch.testing.assert_close(states[reads], expected, atol=1e-4, rtol=1e-4)


def test_the_closed_form_finds_the_returns_of_a_chain() -> None:
    """Five states in a row, one-hot: F and M are the discounted sums of what comes after each."""
    rewards = (0.1, 0.5, 0.2, 0.9, 0.4)
    states = torch.eye(5)[None].repeat(40, 1, 1)
    states += 1e-3 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
    fitter = HeadFitter(gamma=0.9, ridge=1e-9, held_out=0.0)
    for own in states:
        response = Response(("A.",) * 5, rewards, stopped=True)
        fitter.add(0.5, [StatedResponse(response, dict.fromkeys(READS, own))])
    weight = fitter.weights()["prefix"]
    reward, future, count = (torch.eye(5) @ weight[:-1] + weight[-1]).T
    assert reward.tolist() == pytest.approx(rewards, abs=2e-2)
    for i in range(4):
        rest = rewards[i + 1 :]
        assert future[i].item() == pytest.approx(sum(0.9**k * r for k, r in enumerate(rest)), abs=3e-2)
        assert count[i].item() == pytest.approx(sum(0.9**k for k in range(len(rest))), abs=3e-2)


def test_a_sentence_cut_by_the_limit_is_left_out() -> None:
    one = StatedResponse(
        Response(("A.", "B.", "C"), (1.0, 2.0, 9.0), stopped=False), {"prefix": torch.eye(3)}
    )
    assert one.whole().response.rewards == (1.0, 2.0)
    assert len(one.whole().states["prefix"]) == 2


def test_search_by_a_head_asks_no_scorer(world, request_) -> None:
    head = HeadScorer(random_head(world), world)
    (caption,) = Stepwise(max_sentences=3)(world, head, [request_])
    assert caption.cost.num_value_calls == 0
    assert len(caption.values) == len(caption.sentences)
    (best,) = BestOfN(samples_per_temperature=1)(world, head, [request_])
    assert best.cost.num_value_calls > 0


def test_a_head_guides_captions_from_python(tmp_path: Path, world, request_) -> None:
    random_head(world).save_pretrained(tmp_path)
    captioner = visvm.load(policy="world", value=str(tmp_path), reward=str(tmp_path))
    caption = captioner.caption(request_.image.pil, method="visvm", max_sentences=2)
    assert caption.cost.num_value_calls == 0
    assert len(captioner.score(request_.image.pil, ["A cup.", "A dog."], method="prm")) == 2
