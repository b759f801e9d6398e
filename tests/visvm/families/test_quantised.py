"""Weights saved quantised load and equal generate on the CPU, where the packages for them are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from tests.support import tiny
from tests.visvm.test_policy import requests
from visvm.families.loading import load_model
from visvm.policy import SharedPrefixPolicy


def torchao_int8() -> Any:
    from importlib import import_module

    quantization: Any = import_module("torchao.quantization")
    return tf.TorchAoConfig(quantization.Int8WeightOnlyConfig())


MAKERS = {
    "torchao int8": ("torchao", torchao_int8),
    "bitsandbytes nf4": (
        "bitsandbytes",
        lambda: tf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_quantised_weights_equal_generate(kind: str, tmp_path: Path) -> None:
    package, make = MAKERS[kind]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    plain = tiny.save("llava", tmp_path / "plain")
    folder = tmp_path / "quantised"
    small: Any = tf.AutoModelForImageTextToText.from_pretrained(
        plain, quantization_config=make(), dtype=torch.float32, device_map={"": "cpu"}
    )
    small.save_pretrained(folder)
    tf.AutoProcessor.from_pretrained(plain).save_pretrained(folder)
    policy = SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=12)
    model, _ = load_model(str(folder))
    linear = model.model.language_model.layers[0].mlp.up_proj
    assert type(linear) is not torch.nn.Linear or type(linear.weight.data) is not torch.Tensor
    asked = requests()
    for request, (candidate,) in zip(
        asked, policy.propose(policy.open(asked), [0.0], whole=True), strict=True
    ):
        given = policy.family.inputs(request.image, request.prompt)
        out = model.eval().generate(**given, do_sample=False, max_new_tokens=12, min_new_tokens=1)
        new = out[0, given["input_ids"].shape[1] :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]
