"""OpenAI's chat completions as this endpoint speaks them: requests, responses, stream chunks, errors.

What a request may ask beyond OpenAI's fields, and what a response tells of the search, is in one
field more on each, ``visvm``.
"""

from visvm.chat.errors import ChatError, invalid
from visvm.chat.request import MODELS, ChatLimits, ChatRequest, Order, read_order, search_of, served_methods
from visvm.chat.response import DONE, Event, Reply, Step, Written, model_list, sse

__all__ = [
    "DONE",
    "MODELS",
    "ChatError",
    "ChatLimits",
    "ChatRequest",
    "Event",
    "Order",
    "Reply",
    "Step",
    "Written",
    "invalid",
    "model_list",
    "read_order",
    "search_of",
    "served_methods",
    "sse",
]
