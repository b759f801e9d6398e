"""Response bodies: one complete body, or the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from visvm.chat.answer_text import trim
from visvm.chat.errors import ChatError
from visvm.chat.request import MODELS, no_such_model
from visvm.records import Caption

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A newly chosen sentence of caption ``index``; ``step`` is its row of the trace, if requested."""

    index: int
    text: str
    step: Row | None


@dataclass(frozen=True)
class CaptionResult:
    """A finished caption as plain data; ``num_tokens`` counts the tokens of its text."""

    index: int
    method: str
    text: str
    sentences: tuple[str, ...]
    values: tuple[float, ...]
    trace: list[Row]
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    cost: Row

    @classmethod
    def of(cls, index: int, caption: Caption, *, trace: bool) -> CaptionResult:
        """Convert ``caption``, dropping its image and, unless ``trace`` is set, its trace."""
        first, rest = caption.sentences[:1], caption.sentences[1:]
        sentences = (*(trim(text, caption.request) for text in first), *rest)
        chosen = [len(step.candidates[step.choice].token_ids) for step in caption.trace]
        cost = caption.cost
        return cls(
            index=index,
            method=caption.method,
            text="".join(sentences),
            sentences=sentences,
            values=caption.values,
            trace=[step.row() for step in caption.trace] if trace else [],
            finish_reason=caption.finish_reason,
            num_prompt_tokens=cost.num_prompt_tokens,
            num_tokens=sum(chosen) if chosen else cost.num_generated_tokens,
            cost={
                "num_generated_tokens": cost.num_generated_tokens,
                "num_value_calls": cost.num_value_calls,
                "seconds": cost.seconds,
            },
        )


Event = Step | CaptionResult | ChatError
"""What a caption stream yields; an error ends it."""


@dataclass(frozen=True)
class Reply:
    """Builds the chunks of one response, which share model, id and creation time (Unix seconds)."""

    model: str
    calibration: Row | None = None  # what is promised of the captions
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, captions: Sequence[CaptionResult], *, trace: bool) -> Row:
        """Return the body of a response that is not streamed."""
        choices = [
            {
                "index": one.index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "finish_reason": one.finish_reason,
                "logprobs": None,
                **({"visvm": _search_details(one)} if trace else {}),
            }
            for one in captions
        ]
        extra = self._extra(_search_details(captions[0]) if trace else {})
        return self._head("chat.completion") | {"choices": choices, "usage": usage(captions), **extra}

    def first(self, index: int) -> Row:
        """Return the chunk that opens caption ``index``."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def sentence(self, index: int, text: str, step: Row | None = None) -> Row:
        """Return the chunk of a sentence, with its trace if given."""
        return self._chunk(index, {"content": text}) | ({"visvm": {"step": step}} if step else {})

    def last(self, result: CaptionResult, *, trace: bool) -> Row:
        """Return the chunk that ends a caption, with its cost if ``trace`` is set."""
        extra = self._extra({"method": result.method, "cost": result.cost} if trace else {})
        return self._chunk(result.index, {}, result.finish_reason) | extra

    def usage(self, captions: Sequence[CaptionResult]) -> Row:
        """Return the chunk that ends the stream if stream_options.include_usage is set."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage(captions)}

    def _extra(self, details: Row) -> Row:
        """Return the key ``visvm`` with details and calibration; nothing without either."""
        promise = {"calibration": self.calibration} if self.calibration else {}
        return {"visvm": details | promise} if details or promise else {}

    def _chunk(self, index: int, delta: Row, finish_reason: str | None = None) -> Row:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _head(self, kind: str) -> Row:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _search_details(one: CaptionResult) -> Row:
    names = ("method", "sentences", "values", "trace", "cost")
    return {name: getattr(one, name) for name in names}


def usage(captions: Sequence[CaptionResult]) -> Row:
    """Return OpenAI's token counts; the tokens of image and prompt count once per caption."""
    prompt, completion = (
        sum(getattr(c, name) for c in captions) for name in ("num_prompt_tokens", "num_tokens")
    )
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_list(methods: Sequence[str]) -> Row:
    """Return the body of GET /v1/models."""
    extra: dict[str, Row] = {"policy": {}, "policy+search": {"visvm": {"methods": list(methods)}}}
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "visvm"} for name in MODELS]
    return {"object": "list", "data": [model | extra[str(model["id"])] for model in models]}


def find_model(name: str, methods: Sequence[str]) -> Row:
    """Return the body of GET /v1/models/{name}; ``ChatError`` 404 if there is no such model."""
    for model in model_list(methods)["data"]:
        if model["id"] == name:
            return model
    raise no_such_model()


def sse(data: Row | str) -> bytes:
    """Encode one server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    return f"data: {text}\n\n".encode()


DONE = sse("[DONE]")
