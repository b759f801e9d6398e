"""MMHal-Bench: the published reading of the judge's replies."""

from __future__ import annotations

import json

import pytest

from tests.support.paths import SHARED_DATA
from visvm.metrics.bootstrap import Resampling
from visvm.metrics.mmhal import fill, is_doubtful, parse_rating, summary

DATA = SHARED_DATA / "mmhal"
FEW = Resampling(num_resamples=100)
RECORD = {"image_content": ["dog", "grass"], "question": "What {is} it?", "gt_answer": "A dog."}


@pytest.mark.parametrize(
    ("reply", "rating", "doubtful"),
    [
        ("Explanation.\n- Rating: 4, good", 4, False),
        ("RATING: 0", 0, False),
        ("Rating: 6. Rating: 6", 6, False),
        ("Rating: 2 or Rating: 6", None, False),
        ("Rating: 10", 1, True),
        ("Rating: 4.5", 4, True),
        ("Rating: 7", None, False),
        ("**Rating:** 3", None, False),
        ("", None, False),
    ],
)
def test_a_rating_is_read_strictly(reply: str, rating: int | None, doubtful: bool) -> None:
    assert (parse_rating(reply), is_doubtful(reply)) == (rating, doubtful)


def test_unparsed_replies_score_0_and_are_counted() -> None:
    found = summary(["Rating: 6", "Rating: 2", "no idea", "Rating: 4"], FEW)
    assert (found["score"], found["score_of_parsed"]) == (3.0, 4.0)
    assert (found["hallucination_rate"], found["unparsed"]) == (0.5, 0.25)
    assert list(found["types"]) == ["attribute", "adversarial", "comparison", "counting"]


@pytest.mark.parametrize("prompt", ["{}|{}|{}|{}", "{image_content}|{question}|{gt_answer}|{model_answer}"])
def test_the_prompt_is_filled_by_order_or_by_name(prompt: str) -> None:
    assert fill(prompt, RECORD, "A {cat}.") == "dog, grass|What {is} it?|A dog.|A {cat}."


@pytest.mark.parametrize(
    ("prompt", "record", "problem"),
    [
        ("{} {}", RECORD, "2 times: expected 4"),
        ("{answer}", RECORD, "not known"),
        ("Rate it.", RECORD, "lacks the answer"),
        ("{}{}{}{}", {"question": "?"}, "needs image_content, gt_answer"),
    ],
)
def test_a_wrong_prompt_is_refused(prompt: str, record: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        fill(prompt, record, "A cat.")


@pytest.mark.skipif(not DATA.exists(), reason="the golden cases are not here")
def test_golden_replies() -> None:
    golden = json.loads((DATA / "expected.json").read_text())
    outputs = json.loads((DATA / "judge_outputs.json").read_text())
    replies = [one["choices"][0]["message"]["content"] for one in outputs]
    assert [parse_rating(reply) or 0 for reply in replies] == golden["scores"]
    found = summary(replies, FEW)
    assert (round(found["score"], 2), round(found["hallucination_rate"], 2)) == (2.09, 0.64)
    by_type = ",".join(str(round(one["score"], 2)) for one in found["types"].values())
    assert golden["stdout"].splitlines()[-1].endswith(f"type: {by_type}")
    assert golden["stdout"].count("Warning") == sum(parse_rating(reply) is None for reply in replies)
