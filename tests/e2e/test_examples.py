"""The examples run as they stand."""

from __future__ import annotations

import json
import runpy
from typing import Any

import pytest

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"


def test_the_script_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "front_door.py"), run_name="__main__")
    told = capsys.readouterr().out
    assert "greedy:  This is a street" in told and "value +" in told and "a scorer of one's own" in told


def test_the_notebook_runs() -> None:
    """Its code cells, in order, in one namespace."""
    cells = json.loads((EXAMPLES / "front_door.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["guided"].text != names["greedy"].text and names["guided"].trace
