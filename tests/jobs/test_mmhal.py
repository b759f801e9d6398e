"""The mmhal verb, with a judge on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from jobs import mmhal
from tests.support.servers import running

QUESTIONS = [
    {"image_content": ["dog"], "question": f"Question {i}?", "gt_answer": "A dog."} for i in range(4)
]


class Judge:
    """Rates answer i as i, once it has failed as often as it is told."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.fail: dict[str, int] = {}  # by text: how often more a 500 comes
        self.status = 500
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.answer)

    async def answer(self, body: dict[str, Any]) -> Any:
        self.bodies.append(body)
        text = body["messages"][0]["content"]
        if self.fail.get(text, 0):
            self.fail[text] -= 1
            return JSONResponse({"error": {"message": "out of order"}}, self.status)
        message = {"role": "assistant", "content": f"Rating: {text.split()[-1]}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": [choice]}


@pytest.fixture
def judge() -> Iterator[tuple[Judge, str]]:
    one = Judge()
    with running(one.app) as url:
        yield one, f"{url}/v1"


def run(folder: Path, url: str, *flags: str) -> int:
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    answers = [{**one, "model_answer": f"answer {i}"} for i, one in enumerate(QUESTIONS)]
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "prompt.txt").write_text("{image_content} {question} {gt_answer} {model_answer}")
    given = ["--questions", "questions.json", "--answers", "answers.json", "--prompt", "prompt.txt"]
    given = [str(folder / word) if "." in word else word for word in given]
    return mmhal.main([*given, "--endpoint", url, "--model", "judge", "--out", str(folder / "out"), *flags])


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "out" / "metrics.json").read_text())


def text(i: int) -> str:
    return f"dog Question {i}? A dog. answer {i}"


def test_every_answer_is_judged_from_text_at_temperature_0(tmp_path: Path, judge: tuple[Judge, str]) -> None:
    server, url = judge
    assert run(tmp_path, url) == 0
    found = metrics(tmp_path)
    assert (found["ratings"], found["score"], found["hallucination_rate"]) == ([0, 1, 2, 3], 1.5, 0.75)
    assert sorted(body["messages"][0]["content"] for body in server.bodies) == [text(i) for i in range(4)]
    assert {(body["model"], body["temperature"], len(body["messages"])) for body in server.bodies} == {
        ("judge", 0.0, 1)
    }


def test_a_failed_request_is_tried_again(tmp_path: Path, judge: tuple[Judge, str]) -> None:
    server, url = judge
    server.fail = {text(2): 1}
    assert run(tmp_path, url) == 0
    assert len(server.bodies) == 5
    assert metrics(tmp_path)["ratings"] == [0, 1, 2, 3]


def test_a_run_that_broke_off_asks_only_for_what_is_missing(tmp_path: Path, judge: tuple[Judge, str]) -> None:
    server, url = judge
    server.fail = {text(1): 1}
    assert run(tmp_path, url, "--max-retries", "0") == 1
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert len(server.bodies) == 4
    assert run(tmp_path, url, "--max-retries", "0") == 0
    assert len(server.bodies) == 5
    assert metrics(tmp_path)["ratings"] == [0, 1, 2, 3]


def test_a_refused_key_is_bad_usage(
    tmp_path: Path, judge: tuple[Judge, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, url = judge
    server.fail, server.status = dict.fromkeys(map(text, range(4)), 9), 401
    assert run(tmp_path, url) == 2
    assert "refuses to answer as judge" in capsys.readouterr().err


def test_replies_at_hand_need_no_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = [{"choices": [{"message": {"content": f"Rating: {i}"}}]} for i in (6, 0)]
    (tmp_path / "judged.json").write_text(json.dumps(replies))
    assert mmhal.main(["--judged", str(tmp_path / "judged.json"), "--out", str(tmp_path / "out")]) == 0
    assert metrics(tmp_path)["score"] == 3.0
    assert "score 3.00" in capsys.readouterr().out


def test_a_missing_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "questions.json").write_text(json.dumps(QUESTIONS))
    (tmp_path / "answers.json").write_text(json.dumps([{"model_answer": "one"}]))
    (tmp_path / "prompt.txt").write_text("{}{}{}{}")
    flags = [f"--{name}={tmp_path / file}" for name, file in FILES.items()]
    end = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "judge", "--out", str(tmp_path / "out")]
    assert mmhal.main([*flags, *end]) == 2
    assert "3 of 4 questions lack an answer" in capsys.readouterr().err


FILES = {"questions": "questions.json", "answers": "answers.json", "prompt": "prompt.txt"}
