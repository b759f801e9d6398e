"""Prompts: nine of LLaVA's, drawn uniformly and reproducibly."""

from collections import Counter

from visvm.prompts import DETAIL_PROMPTS, prompt_for


def test_there_are_nine_different_prompts():
    assert len(set(DETAIL_PROMPTS)) == 9


def test_the_drawn_prompts_never_change():
    drawn = [prompt_for(image_id, 7) for image_id in ("139", "285", "a.jpg")]
    assert drawn == [
        "Explain the visual content of the image in great detail.",
        "What do you see happening in this image?",
        "Can you describe the main features of this image for me?",
    ]


def test_the_draw_depends_on_the_seed_and_the_image():
    assert [prompt_for(str(i), 0) for i in range(50)] != [prompt_for(str(i), 1) for i in range(50)]


def test_every_prompt_is_drawn_about_equally_often():
    counts = Counter(prompt_for(str(i), 3) for i in range(9000))
    assert set(counts) == set(DETAIL_PROMPTS)
    assert all(850 < count < 1150 for count in counts.values())
