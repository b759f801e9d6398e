"""Options of chat templates, such as ``enable_thinking``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2.meta import find_undeclared_variables
from transformers.utils.chat_template_utils import _compile_jinja_template

# Variables of chat templates that are not the user's to set.
OURS = {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


def check_template(chat_template: Any, options: Mapping[str, Any]) -> None:
    """Check that a chat template reads these options: it would ignore others in silence.

    Raises:
        ValueError: naming the option, and those that the template reads.
    """
    if not options:
        return
    source = chat_template.get("default") if isinstance(chat_template, dict) else chat_template
    if source is None:
        raise ValueError(f"template option {next(iter(options))!r}: the model has no chat template")
    read = find_undeclared_variables(_compile_jinja_template(source).environment.parse(source)) - OURS
    for name in options:
        if name not in read:
            known = ", ".join(sorted(read)) or "none"
            raise ValueError(f"template option {name!r} is not read by the chat template; it reads {known}")
