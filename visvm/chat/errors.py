"""Errors of a request, in OpenAI's format."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any


class ChatError(Exception):
    """A refused or failed request: an HTTP status, and a message that repeats nothing of the content."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """``param`` is the field at fault; ``retry_after`` is in seconds."""
        super().__init__(status, message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the response body in OpenAI's format."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def invalid(problems: Sequence[Any]) -> ChatError:
    """Return the error for pydantic's findings (``ValidationError.errors()``), without the values."""
    first = problems[0]
    # The type of a part is told by its field, which has the same name.
    names = [name for name, _ in groupby(ascii(part).strip("'")[:40] for part in first["loc"])]
    where = ".".join(name for name in names if name != "body") or None
    what = first["msg"]
    if first["type"] == "union_tag_invalid":  # pydantic's message repeats what was given
        what = f"expected a type of {first['ctx']['expected_tags']}"
    elif first["type"] == "union_tag_not_found":
        what = "expected an object with a type"
    return ChatError(400, f"{where or 'body'}: {what}", param=where)
