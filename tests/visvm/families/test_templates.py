"""Chat templates: the token ids are those of apply_chat_template, whatever form and options it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

import visvm
from jobs import describe
from jobs.caption import CaptionConfig
from jobs.runner.command import parse
from jobs.serve import ServeConfig
from tests.support import tiny, tiny_families
from visvm.families import Family

PROMPT = "Describe the image."
THINKING = "{% if not enable_thinking | default(true) %} Think not.{% endif %}"
STRINGS = ("joycaption",)
NO_TEMPLATE = ("paligemma",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA whose template reads one option."""
    folder = tiny.save("llava", tmp_path_factory.mktemp("thinking"))
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template += THINKING
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", [*tiny.NAMES, *sorted(tiny_families.MAKERS)])
def test_token_ids_are_those_of_the_chat_template(name: str, tmp_path: Path) -> None:
    save: Any = tiny.save if name in tiny.NAMES else tiny_families.save
    folder = save(name, tmp_path)
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    image, options = tiny.image(3, width=50, height=40), {}
    if name not in NO_TEMPLATE:
        processor.chat_template += THINKING
        options = {"enable_thinking": False}
    family = Family(model.model, processor, options)
    expected = plain_ids(processor, image.pil, name, options)
    given = family.inputs(image, PROMPT)["input_ids"][0].tolist()
    assert given == expected
    (part,) = family.preprocess([image], [PROMPT])
    assert [*part["input_ids"][0].tolist(), *family.prompt_ids(PROMPT)] == expected
    assert given.count(processor.tokenizer.bos_token_id) <= 1
    if options:
        assert processor.tokenizer.decode(given).endswith("Think not.")


def plain_ids(processor: Any, pixels: Any, name: str, options: dict[str, Any]) -> list[int]:
    if name in NO_TEMPLATE:
        text = processor.tokenizer.decode([processor.image_token_id]) + PROMPT
        return processor(images=[pixels], text=[text])["input_ids"][0]
    content: Any = [{"type": "image"}, {"type": "text", "text": PROMPT}]
    ids = processor.apply_chat_template(
        [{"role": "user", "content": PROMPT if name in STRINGS else content}],
        add_generation_prompt=True,
        tokenize=True,
        return_tensors="pt",
        processor_kwargs={"images": [pixels]},
        **options,
    )
    return ids[0].tolist()


def test_an_option_that_the_template_does_not_read_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"'enable_thinkin'.*; it reads enable_thinking"):
        visvm.load(str(folder), device="cpu", template={"enable_thinkin": False})
    tiny.image(0).pil.save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--policy", str(folder), "--max-new-tokens", "4", "--template"]
    assert describe.main([*words, "thinking=no"]) == 2
    assert "'thinking'" in capsys.readouterr().err
    assert describe.main([*words, "enable_thinking=false"]) == 0


def test_options_change_the_prompt(folder: Path) -> None:
    plain, without = (
        visvm.load(str(folder), device="cpu", **more).policy.family.prompt_ids(PROMPT)
        for more in ({}, {"template": {"enable_thinking": False}})
    )
    assert without[: len(plain)] == plain and len(without) > len(plain)


@pytest.mark.parametrize("kind", [CaptionConfig, ServeConfig])
def test_configs_take_options_by_flag_and_by_key(kind: Any) -> None:
    needed = ["--images", "x", "--out", "y"] if kind is CaptionConfig else []
    config = parse(kind, [*needed, "--template", "enable_thinking=false,effort=low"], doc="")
    assert config.template == {"enable_thinking": False, "effort": "low"}
    assert parse(kind, [*needed, "--set", "template.a=1"], doc="").template == {"a": 1}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse(kind, [*needed, "--template", "no"], doc="")
