"""check as a user runs it: the table, JSON, refusals with status 1, and models that are not found."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest

from jobs import check
from tests.support import tiny_families
from visvm.engine import selftest


def test_an_exact_policy_has_a_table(tiny_policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(tiny_policy)]) == 0
    out = capsys.readouterr().out
    assert "LlavaForConditionalGeneration, LlavaProcessor" in out
    assert "exact                      yes" in out and "value gradient difference" in out and "MiB" in out


def test_json_has_the_differences_and_the_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_families.save("qwen3_vl", tmp_path)
    assert check.main([str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model_type"] == "qwen3_vl" and facts["exact"] is True
    assert facts["largest_difference"] < 1e-3 and facts["value_gradient_difference"] < 1e-3
    token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, bytes
    assert facts["image_bytes"] == facts["image_tokens"] * token and facts["row_bytes"] == 512 * token


def test_a_wrong_result_is_refused_with_the_difference(
    tiny_policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.object(selftest, "compare", lambda *args: selftest.Difference(1.5, 0.5)):
        assert check.main([str(tiny_policy)]) == 1
    captured = capsys.readouterr()
    assert "exact                      no" in captured.out
    assert captured.err.startswith("refused: ") and "by up to 1.5" in captured.err
    assert captured.err.count("\n") == 1


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert check.main([str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["exact"] is False
    assert "'llama' is not supported" in captured.err


@pytest.mark.parametrize("words", [["/nowhere"], [], ["/nowhere", "--dtype", "int8"]])
def test_bad_usage_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")
