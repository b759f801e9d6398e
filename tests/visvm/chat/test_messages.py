"""Messages become a prompt: system text joined, turns in order, the last answer continued."""

from __future__ import annotations

from typing import Any

import pytest

from tests.visvm.chat.test_chat import IMAGE, body, spec
from visvm.chat import CaptionSpec, ChatError
from visvm.records import Conversation, Turn


def text(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


SEEN = text("user", [IMAGE, {"type": "text", "text": "What is this?"}])


def read(*messages: dict[str, Any], **fields: Any) -> CaptionSpec:
    return spec(body() | {"messages": list(messages), **fields})


def test_system_messages_are_joined_to_the_users_next() -> None:
    system, developer = (
        text("system", "Be brief."),
        text("developer", [{"type": "text", "text": "In English."}]),
    )
    assert read(system, SEEN).prompt == "Be brief.\nWhat is this?"
    assert read(system, developer, SEEN).prompt == "Be brief.\nIn English.\nWhat is this?"
    assert read(text("system", ""), SEEN).prompt == read(SEEN, text("system", " ")).prompt == "What is this?"
    assert read(SEEN, system).prompt == "What is this?\nBe brief."
    assert read(system, text("user", [IMAGE])).prompt == "Be brief."
    assert read(text("user", [IMAGE])).prompt == "Describe the following image."


def test_turns_are_kept_and_the_image_stays_in_its_own() -> None:
    answer, more = text("assistant", "A cat."), text("user", "Say more.")
    turns = (Turn("user", "What is this?"), Turn("assistant", "A cat."), Turn("user", "Say more."))
    assert read(SEEN, answer, more).prompt == Conversation(turns)
    late = read(text("user", "Hello."), text("assistant", "Hi."), SEEN).prompt
    first = (Turn("user", "Hello."), Turn("assistant", "Hi."), Turn("user", "What is this?"))
    assert late == Conversation(first, image_turn=2) and str(late) == "What is this?"
    system = text("system", "Be brief.")
    assert read(SEEN, answer, system, more).prompt == Conversation(
        (*turns[:2], Turn("user", "Be brief.\nSay more."))
    )


def test_turns_of_one_role_are_joined() -> None:
    assert read(text("user", "Look."), SEEN).prompt == "Look.\nWhat is this?"
    two = read(
        SEEN, text("user", "Be brief."), text("assistant", "A."), text("assistant", "B."), text("user", "C")
    )
    assert two.prompt == Conversation(
        (Turn("user", "What is this?\nBe brief."), Turn("assistant", "A.\nB."), Turn("user", "C"))
    )


@pytest.mark.parametrize("fields", [{}, {"continue_final_message": True, "add_generation_prompt": False}])
def test_a_last_answer_is_continued(fields: dict[str, Any]) -> None:
    one = read(SEEN, text("assistant", "A cat "), **fields)
    assert (one.prompt, one.start) == ("What is this?", "A cat ")
    with pytest.raises(ChatError, match="continue_final_message"):
        read(SEEN, text("assistant", "A cat "), continue_final_message=False)


def test_several_images_are_counted_wherever_they_are() -> None:
    with pytest.raises(ChatError, match="exactly one image_url part, got 2"):
        read(SEEN, text("assistant", "A cat."), SEEN)
    with pytest.raises(ChatError, match=r"messages\.1\.content: only the user's messages"):
        read(SEEN, text("assistant", [IMAGE]), text("user", "More."))


def test_the_prompt_is_limited_over_all_messages() -> None:
    with pytest.raises(ChatError, match="has 22 characters, at most 21"):
        spec(body() | {"messages": [text("system", "x" * 9), SEEN]}, max_prompt_chars=21)
