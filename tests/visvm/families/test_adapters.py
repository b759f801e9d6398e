"""LoRA adapters as policy, value base and base of fine-tuning: what peft computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from jobs.capacity.memory import size_of
from tests.support import tiny, tiny_families
from tests.visvm.test_policy import requests
from visvm.families import check_supported
from visvm.models import check_policy
from visvm.policy import SharedPrefixPolicy
from visvm.training.sft import load_policy
from visvm.value import VisionValueModel

NUM_TOKENS = 12
LINEAR = ["q_proj", "v_proj", "o_proj", "down_proj"]


def adapter(base: Path, folder: Path) -> Path:
    """Write a random LoRA of a model's language model and, by the same names, of its vision encoder."""
    model: Any = AutoModelForImageTextToText.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=LINEAR))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module", params=["llava", "qwen3_vl"])
def folders(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    save: Any = tiny.save if request.param in tiny.NAMES else tiny_families.save
    base = save(request.param, tmp_path_factory.mktemp("base"))
    return base, adapter(base, tmp_path_factory.mktemp("adapter") / "lora")


def test_greedy_equals_generate_of_the_adapted_model(folders: tuple[Path, Path]) -> None:
    base, lora = folders
    policy = SharedPrefixPolicy.from_pretrained(str(lora), max_new_tokens=NUM_TOKENS)
    plain: Any = AutoModelForImageTextToText.from_pretrained(base)
    model: Any = PeftModel.from_pretrained(plain, str(lora)).eval()
    asked = requests()
    proposals = policy.propose(policy.open(asked), [0.0], whole=True)
    differs = []
    for request, (candidate,) in zip(asked, proposals, strict=True):
        given = policy.family.inputs(request.image, request.prompt)
        options = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "min_new_tokens": 1}
        new = model.generate(**given, **options)[0, given["input_ids"].shape[1] :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]
        with model.disable_adapter():
            without = model.generate(**given, **options)[0, given["input_ids"].shape[1] :].tolist()
        differs.append(new != without)
    assert any(differs)


def test_an_adapter_is_known_by_its_base(folders: tuple[Path, Path]) -> None:
    base, lora = folders
    assert check_supported(str(lora)) == check_supported(str(base))
    assert check_policy(str(lora)) == str(lora)
    assert size_of(str(lora)) == size_of(str(base))


def test_value_models_and_fine_tuning_begin_with_the_merged_weights(folders: tuple[Path, Path]) -> None:
    base, lora = folders
    plain: Any = AutoModelForImageTextToText.from_pretrained(base)
    expected = PeftModel.from_pretrained(plain, str(lora)).merge_and_unload().state_dict()
    value = VisionValueModel.from_policy(str(lora)).base.state_dict()
    policy = load_policy(str(lora))[0].state_dict()
    assert policy.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(policy[name], weight)
        if name.startswith("model."):
            torch.testing.assert_close(value[name.removeprefix("model.")], weight)


def test_what_cannot_be_merged_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, lora = folders
    config = json.loads((lora / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not name its base"):
        check_supported(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "/nowhere"})
    )
    with pytest.raises(ValueError, match=r"cannot read a model at .*/nowhere"):
        check_supported(str(tmp_path))
    PromptTuningConfig(num_virtual_tokens=4, base_model_name_or_path=str(base)).save_pretrained(str(tmp_path))
    with pytest.raises(ValueError, match="learned prompt"):
        SharedPrefixPolicy.from_pretrained(str(tmp_path))
