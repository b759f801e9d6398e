"""POPE: questions sampled as published, and answers read as published."""

from __future__ import annotations

import pytest

from visvm.metrics.pope import METRICS, Strategy, judge, make_questions, says_yes

IMAGES = {
    "a.jpg": ["dog", "cat"],
    "b.jpg": ["dog", "car"],
    "c.jpg": ["dog", "car", "bus"],
    "d.jpg": ["cat", "orange"],
}


def asked(strategy: Strategy, image: str, *, seed: int = 0) -> list[tuple[str, str]]:
    """The (object, label) of each question about an image that two objects are asked of."""
    questions = make_questions(IMAGES, strategy, num_objects=2, seed=seed)
    return [(one["text"].split()[3], one["label"]) for one in questions if one["image"] == image]


def test_popular_asks_for_the_most_frequent_absent_objects() -> None:
    assert asked("popular", "d.jpg") == [("cat", "yes"), ("dog", "no"), ("orange", "yes"), ("car", "no")]
    assert asked("popular", "a.jpg") == [("dog", "yes"), ("car", "no"), ("cat", "yes"), ("bus", "no")]


def test_adversarial_asks_for_what_occurs_with_the_object_asked_before() -> None:
    # With a dog: car twice. With a cat: dog, which is there, and orange.
    assert asked("adversarial", "a.jpg") == [("dog", "yes"), ("car", "no"), ("cat", "yes"), ("orange", "no")]


def test_random_asks_for_any_absent_object_by_the_seed() -> None:
    draws = {tuple(asked("random", "a.jpg", seed=seed)) for seed in range(20)}
    assert len(draws) > 3
    assert asked("random", "a.jpg", seed=4) == asked("random", "a.jpg", seed=4)
    for draw in draws:
        absent = [name for name, label in draw if label == "no"]
        assert len(set(absent)) == 2 and not set(absent) & set(IMAGES["a.jpg"])


def test_questions_are_in_the_authors_format() -> None:
    questions = make_questions(IMAGES, "adversarial", num_objects=2)
    assert [one["question_id"] for one in questions] == list(range(1, 17))
    assert questions[3] == {
        "question_id": 4,
        "image": "a.jpg",
        "text": "Is there an orange in the image?",
        "label": "no",
    }


def test_images_that_cannot_be_asked_of_are_named() -> None:
    with pytest.raises(ValueError, match=r"a\.jpg has 2 objects, POPE asks for 3"):
        make_questions(IMAGES, "random")
    with pytest.raises(ValueError, match="no object of the set is absent"):
        make_questions({"a.jpg": ["dog", "cat"]}, "popular", num_objects=1)


@pytest.mark.parametrize(
    ("answer", "yes", "unparsed"),
    [
        ("Yes", True, False),
        ("Yes, there is. No doubt.", True, False),
        ("No, there is not.", False, False),
        ("There is not a dog", False, False),
        ("no", False, False),
        ("NO", True, False),  # read as yes by the authors' program
        ("The image shows a dog.", True, True),
        ("", True, True),
    ],
)
def test_answers_are_read_as_published(answer: str, yes: bool, unparsed: bool) -> None:
    assert says_yes(answer) == yes
    assert judge(answer, "yes")["unparsed"] == unparsed


def test_metrics_of_a_confusion_matrix() -> None:
    answers = [("Yes", "yes")] * 3 + [("Yes", "no")] * 2 + [("No", "no")] * 4 + [("No", "yes")]
    counts = METRICS.add_up((str(i), judge(*one)) for i, one in enumerate(answers))
    found = dict(zip(METRICS.metrics, METRICS.ratios(sum(counts.values())), strict=True))
    assert (found["accuracy"], found["precision"], found["recall"]) == (0.7, 0.6, 0.75)
    assert found["f1"] == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))
    assert found["yes_ratio"] == 0.5
