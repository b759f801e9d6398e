"""CHAIR: equal to the published program on golden cases, and as expected on small ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nltk
import pytest

from tests.support.paths import SHARED_DATA
from visvm.metrics.chair import Mention, chair, mentions
from visvm.metrics.coco import read_truth
from visvm.metrics.vocabulary import CATEGORIES, CATEGORY_OF

DATA = SHARED_DATA
GOLDEN, REAL = DATA / "chair_golden", DATA / "chair_real" / "llava15_greedy.json"


def categories(caption: str) -> list[str]:
    return [mention.category for mention in mentions(caption)]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two dogs and a puppy sit on a sofa.", ["dog", "dog", "couch"]),
        ("A car. The cars are red", ["car", "car"]),
        ("It is 3.5 feet from the bench, No. 12, e.g. near Mr. Smith's car.", ["bench", "car"]),
        ("A person.A dog.A cat.", ["cat"]),
        ('A "car." The bus... a truck! (A cat.)', ["car", "truck", "cat"]),
        ("A hot dog next to a dog", ["hot dog", "dog"]),
        ("A baby elephant and an adult zebra", ["elephant", "zebra"]),
        ("A passenger jet and a passenger car", ["airplane", "person", "car"]),
        ("He wears a bow tie", ["tie"]),
        ("Wine glasses on the home plate by the train tracks", ["wine glass"]),
        ("The seat of the toilet", ["toilet"]),
        ("A toilet seat", ["toilet"]),
        ("A seat and a chair", ["chair", "chair"]),
        ("There is no cat", ["cat"]),
        ("A bus and two buses", ["bus"]),
        ("Ties and canoes", []),
        ("A motor bike and a cheesecake", []),
        ("Airbuses, collies, doggies", ["airplane"]),
        ("A tv, tvs and a televison", ["tv", "tv", "tv"]),
        ("", []),
    ],
)
def test_mentions_in_order(caption: str, expected: list[str]) -> None:
    assert categories(caption) == expected


def test_a_mention_keeps_its_word() -> None:
    assert mentions("A tabby") == [Mention("tabby", "cat")]


def test_the_vocabulary_covers_coco() -> None:
    assert len(CATEGORIES) == 80
    assert len(CATEGORY_OF) == 401
    assert all(CATEGORY_OF[category] == category for category in CATEGORIES)


def test_a_caption_against_the_truth() -> None:
    judged = chair("A dog, a dog, a cat and a fork.", {"dog", "bird"})
    assert judged.objects == ("dog", "dog", "cat", "fork")
    assert judged.hallucinated == ("cat", "fork")
    assert judged.recalled == {"dog"}


def test_the_wordnet_variant_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    nltk.tokenize._get_punkt_tokenizer.cache_clear()
    with pytest.raises(ValueError, match="averaged_perceptron_tagger_eng"):
        mentions("A cat", variant="wordnet")


def annotations(folder: Path, **changes: Any) -> Path:
    """A COCO annotation folder: image 7 has a dog, and a cat by its caption; image 8 has nothing."""
    images = [{"id": 7, "file_name": "COCO_7.jpg"}, {"id": 8, "file_name": "000000000008.jpg"}]
    files: dict[str, Any] = {
        "instances_val.json": {
            "images": images,
            "categories": [{"id": 18, "name": "dog"}],
            "annotations": [{"image_id": 7, "category_id": 18}],
        },
        "captions_val.json": {
            "images": images,
            "annotations": [{"image_id": 7, "caption": "A kitten by its friend."}],
        },
    }
    for name, content in files.items():
        section = changes.get(name.split("_")[0], {})
        (folder / name).write_text(json.dumps(content | section) if isinstance(section, dict) else section)
    return folder


def test_truth_is_what_instances_and_captions_name(tmp_path: Path) -> None:
    truth = read_truth(annotations(tmp_path), [7, "000000000008"])
    assert truth == {"7": {"dog", "cat"}, "000000000008": frozenset()}


def test_an_image_is_also_found_by_its_file_name(tmp_path: Path) -> None:
    assert read_truth(annotations(tmp_path), ["photos/COCO_7"]) == {"photos/COCO_7": {"dog", "cat"}}


def test_annotations_of_no_image_are_refused(tmp_path: Path) -> None:
    orphan = {"captions": {"annotations": [{"image_id": 9, "caption": "A dog."}]}}
    with pytest.raises(
        ValueError, match=r"captions_val\.json: annotations\[0\] is of image '9', .* in no file"
    ):
        read_truth(annotations(tmp_path, **orphan), [7])


def test_ids_of_other_types_in_annotations_are_the_same_images(tmp_path: Path) -> None:
    changes = {
        "instances": {"annotations": [{"image_id": "7", "category_id": "18"}]},
        "captions": {
            "images": [{"id": "007", "file_name": "COCO_7.jpg"}, {"id": 8.0, "file_name": "8.jpg"}],
            "annotations": [
                {"image_id": "007", "caption": "A kitten."},
                {"image_id": 8.0, "caption": "A bird."},
            ],
        },
    }
    truth = read_truth(annotations(tmp_path, **changes), [7, "8"])
    assert truth == {"7": {"dog", "cat"}, "8": {"bird"}}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"instances": "{"}, "instances_val.json"),
        ({"instances": "[]"}, 'instances_val.json: expected an object with a list "images"'),
        ({"instances": {"annotations": 3}}, 'a list "annotations"'),
        (
            {"captions": {"annotations": [{"image_id": 7}]}},
            r"captions_val.json: annotations\[0\] needs image_id",
        ),
        ({"instances": {"categories": [{"id": 18, "name": "unicorn"}]}}, "'unicorn' is none of COCO's 80"),
        ({"instances": {"categories": []}}, "category_id 18"),
    ],
)
def test_malformed_annotations_are_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_truth(annotations(tmp_path, **changes), [7])


def test_missing_annotations_and_unknown_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no instances_\*.json"):
        read_truth(tmp_path, [7])
    with pytest.raises(ValueError, match=r"1 of 2 image ids.*'99'"):
        read_truth(annotations(tmp_path), [7, 99])


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden cases are not here")
def test_golden_cases() -> None:
    expected = json.loads((GOLDEN / "expected_original.json").read_text())
    truth = read_truth(GOLDEN / "annotations", [int(key) for key in expected["image_objects"]])
    assert {key: sorted(objects) for key, objects in truth.items()} == expected["image_objects"]
    for case in expected["sentences"]:
        judged = chair(case["caption"], truth[str(case["image_id"])])
        assert list(judged.objects) == case["generated_nodes"]
        assert list(judged.hallucinated) == [category for _, category in case["hallucinated"]]


@pytest.mark.skipif(not REAL.exists(), reason="the captions of LLaVA-1.5 are not here")
def test_captions_of_llava() -> None:
    data = json.loads(REAL.read_text())
    judged = [chair(one["caption"], one["gt"]) for one in data["sentences"]]
    assert [list(one.objects) for one in judged] == [one["generated_nodes"] for one in data["sentences"]]
    assert data["overall"]["counts"] == [
        len(judged),
        sum(bool(one.hallucinated) for one in judged),
        sum(len(one.hallucinated) for one in judged),
        sum(len(one.objects) for one in judged),
        sum(len(one.recalled) for one in judged),
        sum(len(one.truth) for one in judged),
    ]


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden cases are not here")
def test_golden_cases_of_the_wordnet_variant() -> None:
    cases = json.loads((GOLDEN / "expected_wordnet.json").read_text())["sentences"]
    try:
        found = [mentions(case["caption"], variant="wordnet") for case in cases]
    except ValueError as error:
        pytest.skip(str(error))
    named = [[mention.category for mention in one] for one in found]
    assert named == [case["generated_nodes"] for case in cases]
