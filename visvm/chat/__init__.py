"""The subset of OpenAI's chat completions that the endpoint serves: requests, responses, chunks, errors.

Requests and responses have one field beyond OpenAI's, ``visvm``: the search options of a request, and the
details of the search in a response.
"""

from visvm.chat.answer_text import AnswerText
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
from visvm.chat.response import DONE, CaptionResult, Event, Reply, Step, find_model, model_list, sse

__all__ = [
    "DONE",
    "MODELS",
    "AnswerText",
    "CaptionResult",
    "CaptionSpec",
    "ChatError",
    "ChatLimits",
    "ChatRequest",
    "Event",
    "Reply",
    "Step",
    "find_model",
    "invalid",
    "model_list",
    "read_spec",
    "search_of",
    "served_methods",
    "sse",
]
