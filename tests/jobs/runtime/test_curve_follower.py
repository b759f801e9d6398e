"""Progress of training: sparse lines in a log, a bar on a terminal, both with the step and the time left."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from jobs.runtime import curve_follower
from jobs.runtime.curve_follower import CurveReport, following_curve
from tests.support.fakes import until

ENTRIES = [{"step": step, "num_steps": 10, "td_loss": 0.5 / step} for step in (1, 2)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_tell_the_step_the_numbers_and_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    report = CurveReport()
    with caplog.at_level("INFO"):
        for entry in ENTRIES:
            report(entry)
    assert caplog.messages[0] == "training: step 1/10, td_loss 0.5"
    assert caplog.messages[1].startswith("training: step 2/10, td_loss 0.25, ")
    assert caplog.messages[1].endswith(" s left")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    report = CurveReport()
    with caplog.at_level("INFO"):
        report(ENTRIES[-1])
    report.bar.refresh()
    assert "2/10" in terminal.getvalue() and "td_loss=0.25" in terminal.getvalue()
    assert caplog.messages == []
    report.bar.close()


def test_a_curve_is_followed_while_it_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(curve_follower, "SECONDS_BETWEEN_REPORTS", 0.01)
    curve = tmp_path / "curve.jsonl"
    with caplog.at_level("INFO"), following_curve(str(curve)):
        for num, entry in enumerate(ENTRIES, start=1):
            with curve.open("a") as file:
                file.write(json.dumps(entry) + "\n" + json.dumps({"step": 1, "held_out": {}}) + "\n")
            until(lambda: len(caplog.messages) == num)  # noqa: B023
