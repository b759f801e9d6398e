"""Families beyond LLaVA and Qwen2: text, sentences and gradients equal plain transformers."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny, tiny_families
from tests.visvm.test_policy import requests
from visvm.engine.tree_packing import TokenTree, pack_trees
from visvm.families.size import model_size
from visvm.policy import SharedPrefixPolicy
from visvm.value import VisionValueModel
from visvm.value.gradient_check import followed_by

# Windows shorter than an image, and models whose windows are longer than all of a text.
SHORT = {
    f"{name}, short windows": name for name in ("gemma3", "gemma4", "aya_vision", "paligemma", "mistral3")
}
CASES = [*tiny_families.MAKERS, *SHORT]
NUM_TOKENS = 16


@pytest.fixture(scope="module", params=sorted(CASES))
def folder(request: Any, tmp_path_factory: Any) -> str:
    name, change = request.param, {}
    if name in SHORT:
        name, change = SHORT[name], {"sliding_window": 7}
    return str(tiny_families.save(name, tmp_path_factory.mktemp(name), **change))


@pytest.fixture(scope="module")
def policy(folder: str) -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(folder, max_new_tokens=NUM_TOKENS)


def test_greedy_equals_generate(policy: SharedPrefixPolicy, folder: str) -> None:
    """Four requests, three shapes of images, one image shared."""
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    asked = requests()
    for request, (candidate,) in zip(
        asked, policy.propose(policy.open(asked), [0.0], whole=True), strict=True
    ):
        given = policy.family.inputs(request.image, request.prompt)
        out = model.generate(**given, do_sample=False, max_new_tokens=NUM_TOKENS, min_new_tokens=1)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]


def test_three_sentences_equal_one_uncached_forward(policy: SharedPrefixPolicy) -> None:
    """The log-probabilities of three proposals, each behind what was committed before."""
    for request in requests()[:2]:
        (branch,) = policy.open([request])
        log_probs, firsts, tokens = 0.0, [], []
        while not branch.ended and len(firsts) < 3:
            ((_, candidate),) = policy.propose([branch], [0.0, 1.0])
            if policy.family.image_token_id in candidate.token_ids:
                break  # plain forward takes it for a second image
            firsts.append(len(tokens))
            log_probs += candidate.log_prob
            tokens += [*candidate.token_ids, *policy.eos_ids[: candidate.finish_reason == "stop"]]
            (branch,) = policy.commit([branch], [candidate])
        if tokens:
            expected = plain_log_prob(policy, request, tokens, firsts)
            assert log_probs == pytest.approx(expected, abs=0.02)


def plain_log_prob(policy: SharedPrefixPolicy, request: Any, tokens: list[int], firsts: list[int]) -> float:
    family = policy.family
    inputs = family.inputs(request.image, request.prompt)
    start = inputs["input_ids"].shape[1]
    with torch.no_grad():
        hidden = family.base(
            **followed_by(inputs, tokens, prompt_in_prefix=family.prompt_in_prefix), use_cache=False
        ).last_hidden_state
        logits = policy.decoder.lm_head(hidden[0, start - 1 : -1])
    for token in policy.eos_ids:  # never the first token of a step
        logits[firsts, token] = float("-inf")
    return float(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum())


class DoubleTorch:
    """torch with numbers of 64 bits where 32 are asked for: linear attention asks for them by name."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_gradients_of_packed_texts_equal_one_forward_a_text(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = VisionValueModel.from_policy(folder)
    if model.family.has_states:
        monkeypatch.setattr(sys.modules[type(model.family.language_model).__module__], "torch", DoubleTorch())
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    model.double()
    if "moe" in model.config.base_config.model_type:  # grouped products know no double
        model.base.set_experts_implementation("eager")
    images = [tiny.image(0), tiny.image(1, width=30, height=60)]
    texts = [[[10, 11, 12, 13, 14], [10, 11, 20, 21, 22, 23, 24, 25, 26]], [[30, 31]]]
    trees = [TokenTree() for _ in images]
    reads = [[tree.add(text)[-1] for text in own] for tree, own in zip(trees, texts, strict=True)]
    inputs = model.family.preprocess(images)
    values = model(inputs, pack_trees(trees, reads))
    values.square().sum().backward()
    packed = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    plain = [plain_value(model, one, text) for one, own in zip(inputs, texts, strict=True) for text in own]
    torch.testing.assert_close(values, torch.stack(plain), rtol=1e-5, atol=1e-5)
    torch.stack(plain).square().sum().backward()
    for key, p in model.named_parameters():
        if p.grad is not None:
            scale = p.grad.abs().max().item()
            # What an image's last layer adds to its tokens is read by nobody: no gradient here, zeros there.
            mine = packed.get(key, torch.zeros_like(p))
            torch.testing.assert_close(mine, p.grad, rtol=0, atol=1e-5 * scale + 1e-9, msg=key)


def plain_value(model: VisionValueModel, inputs: dict[str, Any], text: list[int]) -> torch.Tensor:
    given = followed_by(inputs, text, prompt_in_prefix=model.family.prompt_in_prefix)
    given = {key: x.double() if x.is_floating_point() else x for key, x in given.items()}
    return model.head(model.base(**given, use_cache=False).last_hidden_state[0, -1])


def test_the_size_by_configuration_alone_is_the_models(policy: SharedPrefixPolicy, folder: str) -> None:
    size = model_size(AutoConfig.from_pretrained(folder))
    assert size.token_values == policy.family.layout.token_values
    assert size.image_tokens > 0


@pytest.mark.parametrize("name", ["joycaption", "pixtral"])
def test_a_template_that_writes_bos_leads_to_one(name: str, tmp_path: Any) -> None:
    folder = tiny_families.save(name, tmp_path)
    policy = SharedPrefixPolicy.from_pretrained(str(folder))
    ids = policy.family.inputs(tiny.image(0), "Describe.")["input_ids"][0].tolist()
    assert ids.count(policy.family.tokenizer.bos_token_id) == 1
    assert "type" not in policy.family.tokenizer.decode(ids)
    content: Any = (
        "Describe." if name == "joycaption" else [{"type": "image"}, {"type": "text", "text": "Describe."}]
    )
    expected = AutoProcessor.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_tensors="pt",
        processor_kwargs={"images": [tiny.image(0).pil]},
    )
    assert ids == expected[0].tolist()
