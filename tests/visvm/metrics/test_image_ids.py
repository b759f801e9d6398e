"""One image under its several names; never one name for two images."""

from __future__ import annotations

from typing import Any

import pytest

from visvm.metrics.image_ids import ImageIds, image_key


def ids(*images: tuple[Any, str]) -> ImageIds:
    known = ImageIds()
    for image in images:
        known.add(*image)
    return known


@pytest.mark.parametrize("file_name", ["000000000042.jpg", "COCO_val2014_000000000042.jpg", "val2017/42.png"])
@pytest.mark.parametrize("image_id", [42, 42.0, "42"])
@pytest.mark.parametrize(
    "name",
    [
        *(42, 42.0, "42", "42.0", "000000000042", "000000000042.jpg", "42.png"),
        *("COCO_val2014_000000000042.jpg", "COCO_val2014_000000000042", "./42.jpg"),
    ],
)
def test_a_number_in_all_its_forms(image_id: Any, file_name: str, name: Any) -> None:
    assert ids((image_id, file_name), (43, "43.jpg")).resolve(name) == 42


def test_folders_before_a_name_do_not_matter_where_the_annotations_have_none() -> None:
    known = ids((42, "COCO_val2014_000000000042.jpg"))
    for name in (r"C:\data\val2014\COCO_val2014_000000000042.jpg", "/data/42.jpg", "val2014/000000000042"):
        assert known.resolve(name) == 42


def test_folders_count_where_base_names_repeat() -> None:
    known = ids((1, "day/cam.jpg"), (2, "night/cam.jpg"))
    assert [known.resolve(name) for name in ("day/cam.jpg", "night/cam", r"D:\x\night\cam.png")] == [1, 2, 2]
    with pytest.raises(ValueError, match=r"'cam.jpg' may mean .*day/cam\.jpg.* or .*night/cam\.jpg"):
        known.resolve("cam.jpg")
    for name in ("dawn/cam.jpg", "day/other.jpg"):
        with pytest.raises(KeyError):
            known.resolve(name)


def test_text_ids_with_folders_are_told_apart() -> None:
    known = ids(("day/cam", "a.jpg"))
    assert known.resolve("day/cam.jpg") == "day/cam"
    with pytest.raises(KeyError):
        known.resolve("night/cam")


def test_the_exact_text_counts_first_and_what_may_mean_two_images_is_refused() -> None:
    known = ids((42, "7.jpg"), (7, "42.jpg"))
    assert [known.resolve(name) for name in (42, "42", "42.jpg", "7.jpg", 7.0)] == [42, 42, 7, 42, 7]
    for name in ("0042", "000000000042.jpg", "COCO_val2014_000000000007.jpg", "42.png"):
        with pytest.raises(ValueError, match="may mean"):
            known.resolve(name)
    padded = ids(("007", "007.jpg"), ("7", "7.jpg"))
    assert [padded.resolve(name) for name in (7, "007", "007.jpg")] == [7, "007", "007"]
    with pytest.raises(ValueError, match="may mean"):
        padded.resolve("07")
    with pytest.raises(ValueError, match="may mean"):
        ids((42, "a.jpg"), (3, "42")).resolve("42")


def test_a_file_that_another_split_or_folder_has_is_another_image() -> None:
    known = ids((42, "COCO_val2014_000000000042.jpg"), (5, "night/5.jpg"))
    for name in ("COCO_train2014_000000000042.jpg", "day/5.jpg"):
        with pytest.raises(KeyError):
            known.resolve(name)


def test_one_id_for_two_files_is_refused() -> None:
    known = ids((1, "a/1.jpg"), ("1", "1.jpg"), (1.0, "000001.jpg"))
    with pytest.raises(ValueError, match=r"image id 1 is 'b/1\.jpg' here and 'a/1\.jpg' elsewhere"):
        known.add(1, "b/1.jpg")
    with pytest.raises(ValueError, match="elsewhere"):
        known.add(1, "2.jpg")


@pytest.mark.parametrize("wrong", [None, True, 4.5, float("nan"), [42], "", b"42"])
def test_what_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="an image id must be"):
        image_key(wrong)


def test_unknown_names_are_counted_and_named() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 image ids are in no annotation file of coco: '8', 'x'"):
        ids((7, "7.jpg")).resolve_all([7, 8, "x", "8"], "coco")


def test_accents_may_be_written_in_two_ways() -> None:
    known = ids((1, "cafe\u0301.jpg"), (2, "cafe.jpg"))  # as macOS writes them
    assert known.resolve("caf\u00e9.jpg") == known.resolve("photos/cafe\u0301.png") == 1
    assert known.resolve("cafe.jpg") == 2


def test_a_float_that_may_be_two_numbers_is_no_id() -> None:
    assert image_key(2.0**53 - 1) == str(2**53 - 1) and image_key(2**60) == str(2**60)
    with pytest.raises(ValueError, match="must be a whole number or text"):
        image_key(2.0**53)
