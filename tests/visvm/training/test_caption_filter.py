"""What of searched captions is learned: no repeats, most of what the candidates name, base captions too."""

from __future__ import annotations

from visvm.training.caption_filter import cleaned, coverage, mixed, without_repeats


def test_repeats_are_dropped_whatever_their_case() -> None:
    assert without_repeats(["A cat.", " A dog.", " a CAT!", " ..."]) == ["A cat.", " A dog.", " ..."]
    row = {"caption": "A cat. A cat.", "sentences": ["A cat.", " A cat."], "image_id": "1"}
    assert cleaned(row)["caption"] == "A cat."
    assert cleaned(row, drop_repeated=False)["caption"] == "A cat. A cat."


def test_coverage_is_the_share_of_the_objects_that_candidates_name() -> None:
    texts = ("A cat sits.", "A dog sits.", "A kitten and a cup.")
    row = {"caption": "A cat sits by a cup.", "trace": [{"candidates": [{"text": text} for text in texts]}]}
    assert coverage(row) == 2 / 3
    assert coverage({"caption": "It rains.", "trace": []}) == 1


def test_a_larger_share_of_base_captions_adds_to_a_smaller_one() -> None:
    own, base = ([{"image_id": str(i), "caption": name} for i in range(200)] for name in ("own", "base"))
    few, many = (
        {row["image_id"] for row in mixed(own, base, share) if row["caption"] == "base"}
        for share in (0.2, 0.5)
    )
    assert few < many and 20 < len(few) < 60 and 75 < len(many) < 125
    assert len(mixed(own, base, 0.5)) == 200
    assert len(mixed(own[:10], base, 1.0)) == 10
