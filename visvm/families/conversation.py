"""Conversations in the form that chat templates take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visvm.records import Conversation, Prompt, Turn


def messages(content: Callable[[str], Any], prompt: Prompt, start: str) -> list[dict[str, Any]]:
    """Return a conversation as chat templates take it, ended by the ``start`` of the answer, if any."""
    talk = prompt if isinstance(prompt, Conversation) else Conversation((Turn("user", prompt),))
    has_parts = isinstance(content(""), list)
    turns = [*talk.turns, *([Turn("assistant", start)] if start else [])]
    out = []
    for i, turn in enumerate(turns):
        plain = [{"type": "text", "text": turn.text}] if has_parts else turn.text
        out.append({"role": turn.role, "content": content(turn.text) if i == talk.image_turn else plain})
    return out
