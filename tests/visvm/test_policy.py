"""The policy equals plain transformers, for every family, whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny
from visvm.policy import SharedPrefixPolicy
from visvm.records import Request
from visvm.sentences import split_sentences

PROMPTS = ("Describe the image.", "What is this photo about?")


@pytest.fixture(scope="module", params=tiny.NAMES)
def folder(request: Any, tmp_path_factory: Any) -> str:
    return str(tiny.save(request.param, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def policy(folder: str) -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=24)


@pytest.fixture(scope="module")
def plain(folder: str) -> tuple[Any, Any]:
    """The same checkpoint in plain transformers."""
    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def requests() -> list[Request]:
    """Images of different shapes (so prefixes of different lengths), two prompts, one shared image."""
    shapes = [(40, 30), (30, 60), (64, 64)]
    images = [tiny.image(i, width=w, height=h) for i, (w, h) in enumerate(shapes)]
    return [Request(images[i], PROMPTS[p], seed=i) for i, p in [(0, 0), (1, 1), (0, 1), (2, 0)]]


def inputs(plain: tuple[Any, Any], request: Request) -> Any:
    content = [{"type": "image", "image": request.image.pil}, {"type": "text", "text": request.prompt}]
    return plain[1].apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_greedy_equals_generate(policy: SharedPrefixPolicy, plain: tuple[Any, Any]) -> None:
    asked = requests()
    for request, (candidate,) in zip(
        asked, policy.propose(policy.open(asked), [0.0], whole=True), strict=True
    ):
        given = inputs(plain, request)
        out = plain[0].generate(**given, do_sample=False, max_new_tokens=24, min_new_tokens=1)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        expected = [token for token in new if token not in policy.eos_ids]
        assert list(candidate.token_ids) == expected


def test_log_probs_equal_one_uncached_forward(policy: SharedPrefixPolicy, plain: tuple[Any, Any]) -> None:
    asked = requests()
    proposals = policy.propose(policy.open(asked), [1.0, 0.0, 0.5], whole=True)
    pairs = [(asked[i], one) for i, candidates in enumerate(proposals) for one in candidates]
    # A random model may write its image placeholder, which plain forward takes for a second image.
    pairs = [pair for pair in pairs if policy.family.image_token_id not in pair[1].token_ids]
    assert len(pairs) >= 4
    for request, candidate in pairs:
        assert candidate.log_prob == pytest.approx(uncached(plain, request, candidate), abs=1e-3)


def uncached(plain: tuple[Any, Any], request: Request, candidate: Any) -> float:
    given = dict(inputs(plain, request))
    tokens = list(candidate.token_ids) + [2] * (candidate.finish_reason == "stop")
    new = torch.tensor([tokens])
    start = given["input_ids"].shape[1]
    given["input_ids"] = torch.cat([given["input_ids"], new], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(new)], dim=1)
    with torch.no_grad():
        logits = plain[0](**given).logits[0, start - 1 : -1].clone()
    logits[0, 2] = float("-inf") if tokens[0] != 2 else logits[0, 2]
    unmasked = logits.logsumexp(-1)
    return float((logits.gather(1, new[0][:, None])[:, 0] - unmasked).sum())


def test_candidates_do_not_depend_on_the_batch(policy: SharedPrefixPolicy) -> None:
    asked = requests()
    together = policy.propose(policy.open(asked), [0.0, 0.7, 1.0])
    for request, candidates in zip(asked, together, strict=True):
        (alone,) = policy.propose(policy.open([request]), [0.0, 0.7, 1.0])
        assert [one.token_ids for one in alone] == [one.token_ids for one in candidates]
        assert [one.log_prob for one in alone] == pytest.approx(
            [one.log_prob for one in candidates], abs=1e-3
        )


def test_greedy_by_sentences_equals_greedy_whole(policy: SharedPrefixPolicy) -> None:
    asked = requests()
    whole = [candidate for (candidate,) in policy.propose(policy.open(asked), [0.0], whole=True)]
    branches = policy.open(asked)
    while live := [i for i, branch in enumerate(branches) if not branch.ended]:
        proposals = policy.propose([branches[i] for i in live], [0.0, 0.9])
        committed = policy.commit([branches[i] for i in live], [one[0] for one in proposals])
        for i, branch in zip(live, committed, strict=True):
            branches[i] = branch
    assert [branch.text for branch in branches] == [one.text for one in whole]
    assert all("".join(branch.sentences) == branch.text for branch in branches)


def test_old_branches_stay_usable_after_commit(policy: SharedPrefixPolicy) -> None:
    (branch,) = policy.open(requests()[:1])
    (first,) = policy.propose([branch], [0.0, 1.0, 1.0])
    policy.commit([branch] * 3, first)
    (again,) = policy.propose([branch], [0.0, 1.0, 1.0])
    assert again == first


def test_a_different_seed_gives_different_samples(policy: SharedPrefixPolicy) -> None:
    image = tiny.image(0)
    branches = policy.open([Request(image, PROMPTS[0], seed=seed) for seed in (1, 2)])
    one, other = policy.propose(branches, [1.0], whole=True)
    assert one[0].token_ids != other[0].token_ids


def test_whole_text_splits_without_loss(policy: SharedPrefixPolicy) -> None:
    for candidates in policy.propose(policy.open(requests()), [1.0] * 3, whole=True):
        for candidate in candidates:
            assert "".join(split_sentences(candidate.text)) == candidate.text


def test_an_ended_branch_refuses_to_go_on(policy: SharedPrefixPolicy) -> None:
    branches = policy.open(requests()[:1])
    ((whole,),) = policy.propose(branches, [0.0], whole=True)
    (ended,) = policy.commit(branches, [whole])
    with pytest.raises(ValueError, match="ended already"):
        policy.propose([ended], [0.0])


def test_an_unsupported_model_is_named(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"'llama' is not supported \(.*\); supported: llava"):
        SharedPrefixPolicy.from_pretrained(str(tmp_path))
