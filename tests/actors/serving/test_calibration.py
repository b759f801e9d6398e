"""`serve --calibration`: which requests are cut by its threshold and report its promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.runtime.serve_config import ServeConfig, read_promise
from tests.support.endpoint import body, local, png
from visvm.config import load

__all__ = ["local"]

FOUND = {
    **{"tau": 0.9, "risk": "chair_s", "alpha": 0.1, "num_images": 99, "empirical_risk": 0.09, "kept": 0.8},
    **{"method": "prm", "policy": "world", "reward": "auto", "step_size": 2},
}


def config(tmp_path: Path, **given: Any) -> ServeConfig:
    (tmp_path / "calibration.json").write_text(json.dumps(FOUND))
    return load(ServeConfig, calibration=str(tmp_path / "calibration.json"), **given)


def test_only_requests_like_those_of_the_calibration_are_cut_and_promised(tmp_path: Path, local: Any) -> None:
    calibrated, calibration = read_promise(config(tmp_path))
    server = local(calibrated=calibrated, calibration=calibration)
    promised = server.chat(body(png(), visvm={"method": "prm", "step_size": 2})).json()
    assert promised["visvm"]["calibration"] == {
        key: FOUND[key] for key in ("tau", "risk", "alpha", "num_images")
    }
    plain = local().chat(body(png(), visvm={"method": "prm", "step_size": 2})).json()
    texts = [reply["choices"][0]["message"]["content"] for reply in (promised, plain)]
    assert texts[0] != texts[1] and len(texts[0]) < len(texts[1])
    others: tuple[dict[str, Any], ...] = (
        {"method": "prm"},
        {"method": "mcts", "step_size": 2},
        {"method": "prm", "step_size": 2, "unit": "paragraph"},
        {"method": "prm", "step_size": 2, "drop_below": 0.1},
    )
    for options in others:
        reply = server.chat(body(png(), visvm=options)).json()
        assert "calibration" not in (reply.get("visvm") or {}), options


def test_a_calibration_of_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made with policy = 'world'"):
        read_promise(config(tmp_path, policy="org/other"))
