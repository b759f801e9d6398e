"""The self-test passes what is exact, remembers it, and refuses what is not, with the difference."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny_families
from visvm.engine import selftest
from visvm.families import Family
from visvm.policy import SharedPrefixPolicy


@pytest.fixture
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, SharedPrefixPolicy]:
    folder = tiny_families.save(request.param, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    return model, SharedPrefixPolicy(model, AutoProcessor.from_pretrained(folder))


def check(loaded: tuple[Any, SharedPrefixPolicy]) -> selftest.Difference:
    model, policy = loaded
    return selftest.check(model, policy.engine, policy.decoder.lm_head)


@pytest.mark.parametrize("loaded", ["qwen3_vl", "mistral3", "paligemma"], indirect=True)
def test_exact_families_pass(loaded: tuple[Any, SharedPrefixPolicy]) -> None:
    assert check(loaded).largest < 1e-3


@pytest.mark.parametrize("loaded", ["gemma3"], indirect=True)
def test_bfloat16_passes_by_its_median(loaded: tuple[Any, SharedPrefixPolicy]) -> None:
    loaded[0].to(torch.bfloat16)
    processor = loaded[1].family.processor
    assert check((loaded[0], SharedPrefixPolicy(loaded[0], processor))).median < 0.2


@pytest.mark.parametrize("loaded", ["qwen3_vl"], indirect=True)
def test_qwen3_vl_without_deepstack_is_refused(loaded: tuple[Any, SharedPrefixPolicy]) -> None:
    family, plain = loaded[1].family, Family.read

    def read(*args: Any) -> Any:
        skip = patch.object(family.language_model, "_deepstack_process", lambda hidden, *rest: hidden)
        with skip if args[0] is family else nullcontext():
            return plain(*args)

    with patch.object(Family, "read", read), pytest.raises(ValueError, match="'qwen3_vl' is not computed"):
        check(loaded)


@pytest.mark.parametrize("loaded", ["mistral3"], indirect=True)
def test_mistral3_without_the_image_end_is_refused(loaded: tuple[Any, SharedPrefixPolicy]) -> None:
    family, whole = loaded[1].family, loaded[1].family.prompt_ids
    end = family.tokenizer.convert_tokens_to_ids("[IMG_END]")
    assert whole("Describe.")[0] == end
    family.prompt_ids = lambda prompt: whole(prompt)[1:]
    with pytest.raises(ValueError, match=r"'mistral3' is not computed exactly.* differ .* by up to"):
        check(loaded)


@pytest.mark.parametrize("loaded", ["paligemma"], indirect=True)
def test_paligemma_split_at_the_image_is_refused(loaded: tuple[Any, SharedPrefixPolicy]) -> None:
    loaded[1].family.prompt_in_prefix = False
    with pytest.raises(ValueError, match="'paligemma' is not computed exactly"):
        check(loaded)


def test_what_passed_is_not_tested_again(
    tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISVM_CACHE", str(tmp_path))
    SharedPrefixPolicy.from_pretrained(str(tiny_policy))
    assert len(list((tmp_path / "selftest").iterdir())) == 1

    def never(*args: Any) -> None:
        raise AssertionError("tested again")

    monkeypatch.setattr(selftest, "check", never)
    SharedPrefixPolicy.from_pretrained(str(tiny_policy))
