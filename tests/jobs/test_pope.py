"""The pope verb, and answers for it: from an endpoint on loopback, and from the world's policy."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image

from jobs import answer, pope
from tests.support.servers import running

NAMES = ("dog", "cat", "car", "bus")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Annotations of six images with two of four objects each, and the images."""
    folder = tmp_path / "coco"
    folder.mkdir()
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(6)]
    for i in range(6):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / f"{i}.png")
    annotations = [{"image_id": i, "category_id": (i + j) % 4} for i in range(6) for j in (0, 1, 0)]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances_val.json").write_text(json.dumps(data))
    return folder


def make(coco: Path, *flags: str) -> Path:
    out = coco.parent / "pope"
    given = ["--coco", str(coco), "--out", str(out), "--num-objects", "2", *flags]
    assert pope.main(["make", *given]) == 0
    return out


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def score(coco: Path, questions: Path, *answers: str, code: int = 0) -> Any:
    out = coco.parent / "score"
    given = ["--questions", str(questions), "--answers", *answers, "--out", str(out)]
    assert pope.main(["score", *given]) == code
    return json.loads((out / "metrics.json").read_text()) if code == 0 else None


def test_questions_are_made_and_scored(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make(coco, "--num-images", "6")
    for strategy in ("random", "popular", "adversarial"):
        questions = lines(out / f"pope_{strategy}.json")
        assert len(questions) == 24
        assert sum(one["label"] == "yes" for one in questions) == 12
    labels = [{"answer": one["label"]} for one in questions]
    (out / "right.json").write_text("".join(json.dumps(one) + "\n" for one in labels))
    always = [{"question_id": one["question_id"], "answer": "Yes."} for one in reversed(questions)]
    (out / "yes.json").write_text(json.dumps(always))
    metrics = score(
        coco, out / "pope_adversarial.json", str(out / "right.json"), f"always={out / 'yes.json'}"
    )
    right, yes = metrics["rows"]["right"], metrics["rows"]["always"]
    assert (right["accuracy"], right["f1"], right["yes_ratio"]) == (1, 1, 0.5)
    assert (yes["accuracy"], yes["recall"], yes["yes_ratio"], yes["accuracy_ci"]) == (0.5, 1, 1, [0.5, 0.5])
    assert metrics["paired"][0]["accuracy"]["difference"] == -0.5
    assert "100.0 [100.0, 100.0]" in capsys.readouterr().out


def test_too_few_images_and_answers_are_named(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--coco", str(coco), "--out", str(coco.parent / "few"), "--num-objects", "2"]
    assert pope.main(["make", *given]) == 2
    assert "6 of 6 images have 2 objects, fewer than num_images = 500" in capsys.readouterr().err
    out = make(coco, "--num-images", "2")
    (out / "a.json").write_text('[{"question_id": 1, "answer": "Yes"}]')
    score(coco, out / "pope_random.json", str(out / "a.json"), code=2)
    assert "1 answers to the 8 questions" in capsys.readouterr().err


class Server:
    """Says yes to what it is asked, but knows no bus."""

    def __init__(self) -> None:
        self.seen: list[tuple[tuple[int, int], str]] = []
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.answer)

    async def answer(self, body: dict[str, Any]) -> Any:
        picture, question = body["messages"][0]["content"]
        data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
        self.seen.append((Image.open(io.BytesIO(data)).size, question["text"]))
        content = "No." if "bus" in question["text"] else "Yes."
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    one = Server()
    with running(one.app) as url:
        yield one, f"{url}/v1"


def test_an_endpoint_answers_with_the_image_before_it(coco: Path, server: tuple[Server, str]) -> None:
    one, url = server
    out = make(coco, "--num-images", "3")
    flags = ["--questions", str(out / "pope_random.json"), "--images", str(coco)]
    flags += ["--prompts", "{question} Say yes or no.", "--endpoint", url, "--model", "m"]
    assert answer.main([*flags, "--out", str(coco.parent / "answers")]) == 0
    assert len(one.seen) == 12
    assert {size for size, _ in one.seen} == {(16, 16)}
    assert all(text.endswith("in the image? Say yes or no.") for _, text in one.seen)
    metrics = score(coco, out / "pope_random.json", str(coco.parent / "answers"))
    assert metrics["rows"]["answers"]["unparsed"] == 0
    assert metrics["rows"]["answers"]["counts"]["questions"] == 12


@pytest.mark.ray
def test_a_policy_answers_on_ray(coco: Path) -> None:
    out = make(coco, "--num-images", "2")
    flags = ["--questions", str(out / "pope_popular.json"), "--images", str(coco), "--policy", "world"]
    folder = coco.parent / "answers"
    assert answer.main([*flags, "--max-new-tokens", "8", "--out", str(folder)]) == 0
    answers = lines(folder / "answers.jsonl")
    assert [one["id"] for one in answers] == [str(i) for i in range(1, 9)]
    assert all(one["response"] for one in answers)
    assert score(coco, out / "pope_popular.json", str(folder))["rows"]["answers"]["counts"]["questions"] == 8
