"""Images that a training needs and that are gone, damaged or changed."""

from pathlib import Path

import pytest

from jobs.inputs.training_images import check_images
from tests.support import tiny
from visvm import images

NUM_IMAGES = 8


@pytest.fixture
def hashes(tmp_path: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for i in range(NUM_IMAGES):
        tiny.image(i).pil.save(tmp_path / f"{i}.png")
        found[str(tmp_path / f"{i}.png")] = images.load(str(tmp_path / f"{i}.png")).content_hash
    return found


def damage(uri: str, how: str) -> None:
    file = Path(uri)
    if how == "gone":
        file.unlink()
    elif how == "damaged":
        file.write_bytes(file.read_bytes()[:60])
    else:
        tiny.image(99).pil.save(file)


HOW = pytest.mark.parametrize(
    ("how", "said"),
    [("gone", "no such file"), ("damaged", "is not a usable image"), ("changed", "it has changed since")],
)


@HOW
def test_some_are_left_out_and_too_many_refused(
    how: str, said: str, hashes: dict[str, str | None], caplog: pytest.LogCaptureFixture
) -> None:
    assert check_images(hashes, 0.5, num_read=NUM_IMAGES) == []
    first, second, *_ = hashes
    for uri in (first, second):
        damage(uri, how)
    assert check_images(hashes, 0.5, num_read=NUM_IMAGES) == [first, second]
    assert f"0.25 of the 8 images cannot be used, e.g. {first}: " in caplog.text and said in caplog.text
    with pytest.raises(RuntimeError, match=r"more than max_error_share = 0\.2"):
        check_images(hashes, 0.2, num_read=NUM_IMAGES)


@HOW
@pytest.mark.parametrize("num_read", [1, NUM_IMAGES])
def test_nothing_to_learn_from_is_bad_usage(
    how: str, said: str, num_read: int, hashes: dict[str, str | None]
) -> None:
    for uri in hashes:
        damage(uri, how)
    with pytest.raises(ValueError, match=rf"none of the 8 images can be used, e\.g\. .*{said}"):
        check_images(hashes, 1, num_read=num_read)


def test_a_few_are_read_and_stand_for_the_others(hashes: dict[str, str | None]) -> None:
    for uri in sorted(hashes)[::2]:
        damage(uri, "changed")
    with pytest.raises(RuntimeError, match=r"0\.5 of the 8 images"):
        check_images(hashes, 0.4, num_read=8)
    assert check_images({uri: None for uri in hashes}, 0, num_read=8) == []  # nobody knows what they were
