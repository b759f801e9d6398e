"""AMBER: equal to the authors' program on its golden cases, and small cases of our own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.paths import SHARED_DATA
from visvm.metrics import amber, amber_questions
from visvm.metrics.amber import AmberWords, judge
from visvm.metrics.amber_folder import read_words
from visvm.metrics.bootstrap import Resampling

DATA = SHARED_DATA / "amber"
FEW = Resampling(num_resamples=100)
needs_golden = pytest.mark.skipif(not DATA.exists(), reason="the golden cases are not here")

RELATIONS = {"dog": ["puppy"], "cat": [], "sea": ["water"], "car": ["tire"], "light": [], "cup": ["mug"]}
WORDS = AmberWords(RELATIONS, frozenset({"light"}))
IMAGE = {"truth": ["dog", "sea"], "hallu": ["cat", "car"]}


def counts(named: list[str], words: AmberWords = WORDS) -> dict[str, float]:
    return judge(named, IMAGE, words)


def test_words_of_the_vocabulary_count_and_repeats_too() -> None:
    found = counts(["puppy", "dog", "image", "cup", "cup"])
    assert (found["mentions"], found["hallucinated"], found["hallucinating"]) == (4, 2, True)
    assert (found["covered"], found["truth"]) == (1, 2)
    assert (found["marked"], found["annotated_hallucinations"]) == (0, 2)


def test_a_related_word_marks_what_it_is_related_to() -> None:
    found = counts(["tire", "water"])
    assert (found["marked"], found["covered"], found["hallucinated"]) == (1, 1, 1)


def test_safe_words_are_mentions_that_are_never_hallucinated() -> None:
    found = counts(["light"])
    assert (found["mentions"], found["hallucinated"]) == (1, 0)


def test_case_counts_as_in_the_authors_program() -> None:
    assert counts(["Dog"])["mentions"] == 0


def test_similar_words_count_as_the_same() -> None:
    words = AmberWords(
        RELATIONS, frozenset(), frozenset({frozenset({"cup", "sea"}), frozenset({"mug", "cat"})})
    )
    found = counts(["cup", "mug"], words)
    assert (found["covered"], found["marked"], found["hallucinated"]) == (1, 1, 1)


def test_an_annotated_word_without_relations_is_named() -> None:
    with pytest.raises(ValueError, match="no entry for 'unicorn'"):
        judge(["dog"], {"truth": ["unicorn"], "hallu": []}, WORDS)


def test_figures_without_a_table_say_so() -> None:
    images = amber.METRICS.add_up([("1", counts(["dog"])), ("2", counts(["cat", "cup"]))])
    summary = amber.summary(images, WORDS, FEW)
    assert summary["words_compared"] == "exact words only"
    assert (summary["chair"], summary["cover"], summary["hal"], summary["cog"]) == (2 / 3, 0.25, 0.5, 0.25)
    assert summary["printed"]["hal"] == 50.0
    assert summary["chair_ci"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("response", "truth", "correct", "unparsed"),
    [
        ("Yes", "yes", True, False),
        ("No", "yes", False, False),
        ("No", "no", True, False),
        ("Yes", "no", False, False),
        ("No.", "no", False, True),
        ("yes", "yes", False, True),
        ("", "no", False, True),
    ],
)
def test_an_answer_counts_if_it_is_exactly_yes_or_no(
    response: str, truth: str, correct: bool, unparsed: bool
) -> None:
    found = amber_questions.judge(response, truth)
    assert (found["correct"], found["unparsed"]) == (correct, unparsed)


def test_no_is_the_positive_answer() -> None:
    kinds = {"discriminative-hallucination": "existence", "relation": "relation"}
    asked = [
        ("existence", "No", "no"),
        ("existence", "Yes", "no"),
        ("state", "No", "yes"),
        ("state", "No", "no"),
    ]
    judged = [(kind, str(i), amber_questions.judge(*answer)) for i, (kind, *answer) in enumerate(asked)]
    found = amber_questions.summaries(judged, FEW)
    assert list(found) == ["all", "existence", "attribute", "state"]
    assert [found["all"][name] for name in ("accuracy", "precision", "recall", "f1")] == [0.5, *[2 / 3] * 3]
    assert found["existence"]["recall"] == 0.5
    assert found["state"]["printed"] == {"accuracy": 50.0, "precision": 50.0, "recall": 99.9, "f1": 66.6}
    assert [amber_questions.type_of({"type": name}) for name in kinds] == list(kinds.values())


@needs_golden
@pytest.mark.parametrize(
    ("expected", "table"),
    [
        ("expected_exact_words_only", None),
        ("expected_table", "similar_pairs_md"),
        ("expected_md", "similar_pairs_md"),
    ],
)
def test_golden_responses_item_by_item(expected: str, table: str | None) -> None:
    words = read_words(str(DATA), str(DATA / f"{table}.json") if table else None)
    annotations = {one["id"]: one for one in load("annotations_used")}
    golden = load(expected)
    judged = [judge(one["nouns"], annotations[one["id"]], words) for one in golden["per_item"]]
    for item, one in zip(golden["per_item"], judged, strict=True):
        assert [one["hallucinated"], one["mentions"]] == [item["chair_score"], item["chair_num"]]
        assert [one["covered"], one["truth"]] == item["cover"]
        assert [one["marked"], one["annotated_hallucinations"]] == item["cog"]
        assert one["hallucinating"] != item["non_hallu"]
    images = amber.METRICS.add_up((str(i), one) for i, one in enumerate(judged))
    printed = amber.summary(images, words, FEW)["printed"]
    assert list(printed.values()) == percentages(golden["printed_generative"])


@needs_golden
def test_golden_nouns() -> None:
    golden = load("expected_exact_words_only")["per_item"]
    try:
        found = [amber.nouns(one["response"]) for one in load("responses")]
    except ValueError as error:
        pytest.skip(str(error))
    assert found == [one["nouns"] for one in golden]


@needs_golden
def test_golden_answers_on_existence() -> None:
    """The annotations are not among the golden cases; but of existence, ids 8633 to 13556, all are "no"."""
    answers = [one for one in load("discriminative") if 8633 <= one["id"] <= 13556]
    judged = [("existence", str(one["id"]), amber_questions.judge(one["response"], "no")) for one in answers]
    golden = load("expected_table")
    totals = amber_questions.METRICS.totals(
        amber_questions.METRICS.add_up((image, one) for _, image, one in judged)
    )
    assert (totals["questions"], totals["correct"]) == (
        60,
        golden["raw_discriminative"]["ha_qa_correct_score"],
    )
    printed = amber_questions.summaries(judged, FEW)["existence"]["printed"]
    section = golden["printed_discriminative"].split("\n\n")[1]
    assert list(printed.values()) == percentages(section)


@needs_golden
@pytest.mark.parametrize(
    ("group", "kinds"),
    [
        ("all", {"qa": "all"}),
        ("attribute", {"as_qa": "state", "an_qa": "number", "aa_qa": "action"}),
        ("state", {"as_qa": "state"}),
        ("number", {"an_qa": "number"}),
        ("action", {"aa_qa": "action"}),
        ("relation", {"asso_qa": "relation"}),
    ],
)
def test_golden_totals_print_as_the_authors_do(group: str, kinds: dict[str, str]) -> None:
    """All 360 answers, by what the authors' program counted of each type."""
    raw = load("expected_table")["raw_discriminative"]
    judged = [
        (amber_questions.GROUPS[group][0] if kind == "all" else kind, str(i), answer)
        for key, kind in kinds.items()
        for i, answer in enumerate(answers_with(raw, key))
    ]
    printed = amber_questions.summaries(judged, FEW)[group]["printed"]
    titles = ("all", "existence", "attribute", "state", "number", "action", "relation")
    section = load("expected_table")["printed_discriminative"].split("\n\n")[titles.index(group)]
    assert list(printed.values()) == percentages(section)


def answers_with(raw: dict[str, float], key: str) -> list[dict[str, float]]:
    """Return answers whose counts add up to the authors' counts of one type."""
    number = {
        name: int(raw[f"{key}_{name}"])
        for name in ("correct_num", "correct_score", "no_num", "no_score", "ans_no_num")
    }
    no_right, no_wrong = number["no_score"], number["no_num"] - number["no_score"]
    yes_called_no = number["ans_no_num"] - no_right
    yes_right = number["correct_score"] - no_right
    rest = number["correct_num"] - no_right - no_wrong - yes_called_no - yes_right
    pairs = [("No", "no")] * no_right + [("Yes", "no")] * no_wrong + [("No", "yes")] * yes_called_no
    pairs += [("Yes", "yes")] * yes_right + [("Maybe", "yes")] * rest
    return [amber_questions.judge(*pair) for pair in pairs]


def percentages(printed: str) -> list[float]:
    return [float(line.split("\t")[-1]) for line in printed.splitlines() if "\t" in line]


def load(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text())
