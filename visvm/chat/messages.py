"""The messages of a request: their schema, and the conversation about one image that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from visvm.chat.errors import ChatError
from visvm.prompts import DETAIL_PROMPTS
from visvm.records import Conversation, Prompt, Turn


class ImageURL(BaseModel):
    """The URL of the image: data:, or http(s) from a host that the server allows."""

    url: str = Field(min_length=1)


def _as_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePart(BaseModel):
    """The image part of a message; its URL may also be given as a string."""

    type: Literal["image_url"]
    image_url: Annotated[ImageURL, BeforeValidator(_as_url, json_schema_input_type=ImageURL | str)]


class TextPart(BaseModel):
    """A text part of a message; those of a message are joined by newlines."""

    type: Literal["text"]
    text: str

    @field_validator("text")
    @classmethod
    def _is_unicode(cls, value: str) -> str:
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("expected Unicode text, got a lone surrogate")
        return value


Parts = list[Annotated[ImagePart | TextPart, Field(discriminator="type")]]


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list | None):
        raise ValueError("expected a string or a list of parts")
    return value or []


class Message(BaseModel):
    """One message; its content may also be given as a string."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[Parts, BeforeValidator(_as_parts, json_schema_input_type=Parts | str | None)] = []

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def urls(self) -> list[str]:
        """The URLs of the images."""
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


def read_messages(messages: Sequence[Message], *, continues: bool | None) -> tuple[str, Prompt, str]:
    """Return the URL of the image, the prompt, and the text that the answer begins with.

    System messages are put before the text of the user's message that follows. A last message of the
    assistant is continued, unless ``continues`` is False.

    Raises:
        ChatError: there is not exactly one image, in a message of the user's; or the turns are in no order
            that can be answered.
    """
    url = _only_image(messages)
    start = ""
    if messages[-1].role == "assistant" and continues is not False:
        start, messages = messages[-1].text, messages[:-1]
    elif continues:
        what = "continue_final_message: the last message is not the assistant's"
        raise ChatError(400, what, param="continue_final_message")
    turns, image_turn = _read_turns(messages)
    if [turn.role for turn in (*turns[:1], *turns[-1:])] != ["user", "user"]:
        what = (
            "messages: the first and the last must be the user's; a message of the assistant's after them is"
            " continued, unless continue_final_message is false"
        )
        raise ChatError(400, what, param="messages")
    if len(turns) > 1:
        return url, Conversation(tuple(turns), image_turn), start
    return url, turns[0].text if turns[0].text.strip() else DETAIL_PROMPTS[0], start


def _only_image(messages: Sequence[Message]) -> str:
    for i, message in enumerate(messages):
        if message.role != "user" and message.urls:
            where = f"messages.{i}.content"
            raise ChatError(400, f"{where}: only the user's messages may have an image_url part", param=where)
    urls = [url for message in messages for url in message.urls]
    if len(urls) != 1:
        what = f"messages: expected exactly one image_url part, got {len(urls)}"
        raise ChatError(400, what, param="messages")
    return urls[0]


def _read_turns(messages: Sequence[Message]) -> tuple[list[Turn], int]:
    """Return the turns, by user and assistant alternately, and the index of the one with the image."""
    turns: list[Turn] = []
    pending: list[str] = []  # of the system, for the user's next turn
    image_turn = 0
    for message in messages:
        if message.role in ("system", "developer"):
            pending.append(message.text)
            continue
        texts = [message.text]
        if message.role == "user":
            texts, pending = [*pending, message.text], []
        if turns and turns[-1].role == message.role:
            texts = [turns.pop().text, *texts]
        role: Literal["user", "assistant"] = "user" if message.role == "user" else "assistant"
        turns.append(Turn(role, _joined(texts)))
        image_turn = len(turns) - 1 if message.urls else image_turn
    if pending and turns:
        turns[-1] = Turn(turns[-1].role, _joined([turns[-1].text, *pending]))
    return turns, image_turn


def _joined(texts: Sequence[str]) -> str:
    return "\n".join(text for text in texts if text.strip())
