"""OpenAI's chat completions as this endpoint speaks them: requests, responses, stream chunks, errors.

What a request may ask beyond OpenAI's fields, and what a response tells of the search, is in one
field more on each, ``visvm``.
"""

from visvm.chat.errors import ChatError, invalid
from visvm.chat.request import (
    MODELS,
    CaptionSpec,
    ChatLimits,
    ChatRequest,
    read_spec,
    search_of,
    served_methods,
)
from visvm.chat.response import DONE, CaptionResult, Event, Reply, Step, model_list, sse

__all__ = [
    "DONE",
    "MODELS",
    "CaptionResult",
    "CaptionSpec",
    "ChatError",
    "ChatLimits",
    "ChatRequest",
    "Event",
    "Reply",
    "Step",
    "invalid",
    "model_list",
    "read_spec",
    "search_of",
    "served_methods",
    "sse",
]
