"""Conversations and continued answers: token ids of the chat template, text of transformers' generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.support import tiny, tiny_families
from visvm.models import WORLD
from visvm.policy import SharedPrefixPolicy
from visvm.records import Conversation, Request, Turn
from visvm.search import SearchConfig, make_search

ASKED = (Turn("user", "Describe the image."), Turn("assistant", "A red car."), Turn("user", "Say more."))
TALKS = (Conversation(ASKED), Conversation(ASKED, image_turn=2))
START = "It is near the"
NAMES = ("llava", "qwen2_5_vl", "gemma3", "joycaption")
NUM_TOKENS = 6
ROLE, FIRST = "{% if message['role'] == 'assistant' %}", "{% if loop.first %}"


@pytest.fixture(scope="module", params=NAMES)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose chat template tells the roles apart."""
    save: Any = tiny.save if request.param in tiny.NAMES else tiny_families.save
    folder = save(request.param, tmp_path_factory.mktemp(request.param))
    processor = AutoProcessor.from_pretrained(folder)
    template = processor.chat_template.replace("USER: <image>", f"USER: {FIRST}<image>{{% endif %}}")
    processor.chat_template = template.replace("USER: ", f"{ROLE} ASSISTANT: {{% else %}}USER: {{% endif %}}")
    processor.save_pretrained(folder)
    return folder


def plain_inputs(processor: Any, request: Request) -> Any:
    """The inputs by plain transformers; a string where the template takes no parts."""
    talk: Any = request.prompt
    takes_parts = "'type'" in processor.chat_template
    messages = []
    for i, turn in enumerate([*talk.turns, *([Turn("assistant", request.start)] if request.start else [])]):
        text = {"type": "text", "text": turn.text}
        parts = [{"type": "image"}, text] if i == talk.image_turn else [text]
        messages.append({"role": turn.role, "content": parts if takes_parts else turn.text})
    return processor.apply_chat_template(
        messages,
        add_generation_prompt=not request.start,
        continue_final_message=bool(request.start),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"images": [request.image.pil]},
    )


def test_conversations_equal_generate(folder: Path) -> None:
    policy = SharedPrefixPolicy.from_pretrained(str(folder), max_new_tokens=NUM_TOKENS)
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    image = tiny.image(0, width=50, height=40)
    talks = TALKS if "joycaption" not in str(folder) else TALKS[:1]  # its image is in the first turn always
    asked = [Request(image, talk, start=start) for talk in talks for start in ("", START)]
    branches = policy.open(asked)
    for request, branch, (candidate,) in zip(
        asked, branches, policy.propose(branches, [0.0], whole=True), strict=True
    ):
        given = plain_inputs(processor, request)
        ids = given["input_ids"][0].tolist()
        (part,) = policy.family.preprocess([image], [request.prompt])
        start = policy.family.start_ids(request.prompt, request.start)
        assert [*part["input_ids"][0].tolist(), *policy.family.prompt_ids(request.prompt), *start] == ids
        assert branch.text.strip() == request.start and branch.num_prompt_tokens == len(ids)
        out = model.generate(**given, do_sample=False, max_new_tokens=NUM_TOKENS, min_new_tokens=1)
        new = out[0, len(ids) :].tolist()
        assert list(candidate.token_ids) == [token for token in new if token not in policy.eos_ids]


@pytest.fixture(scope="module")
def world() -> SharedPrefixPolicy:
    return SharedPrefixPolicy.from_pretrained(str(WORLD / "policy"))


@pytest.mark.parametrize("options", [{"method": "greedy"}, {"method": "greedy", "max_sentences": 2}])
def test_a_continued_caption_is_the_rest_of_the_whole(
    world: SharedPrefixPolicy, options: dict[str, Any]
) -> None:
    image = tiny.image(1, width=96, height=96)
    search = make_search(options["method"], SearchConfig(max_sentences=options.get("max_sentences")))
    (whole,) = make_search("greedy", SearchConfig())(world, None, [Request(image, "Describe.")])
    num = len(whole.sentences)
    assert num > 3
    for i in range(1, num - 1):
        request = Request(image, "Describe.", start="".join(whole.sentences[:i]))
        (rest,) = search(world, None, [request])
        assert rest.sentences == whole.sentences[i:][: options.get("max_sentences")]
        assert rest.text == "".join(rest.sentences)


def test_tokens_are_limited_after_the_start(world: SharedPrefixPolicy) -> None:
    image = tiny.image(1, width=96, height=96)
    start = "A red car. A blue car. A green car."
    ((cut,),) = world.propose(
        world.open([Request(image, "Describe.", max_tokens=3, start=start)]), [0.0], whole=True
    )
    assert len(cut.token_ids) == 3 and cut.finish_reason == "length"


def test_a_template_that_refuses_a_conversation_says_so(world: SharedPrefixPolicy, monkeypatch: Any) -> None:
    refusing = "{{ raise_exception('one turn only') }}"
    monkeypatch.setattr(world.family.processor, "chat_template", refusing)
    with pytest.raises(ValueError, match="refuses this conversation: one turn only"):
        world.open([Request(tiny.image(0), TALKS[0])])


@pytest.mark.parametrize(
    "prompt", ["A dog <image> here?", Conversation((*ASKED[:2], Turn("user", "<image>")))]
)
def test_a_prompt_with_the_placeholder_of_an_image_is_refused(world: SharedPrefixPolicy, prompt: Any) -> None:
    with pytest.raises(ValueError, match="leave '<image>' out of the prompt"):
        world.open([Request(tiny.image(0), prompt)])
