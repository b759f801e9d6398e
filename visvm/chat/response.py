"""What a request is answered with: one body, or the chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from visvm.chat.errors import ChatError
from visvm.chat.request import MODELS
from visvm.records import Caption

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """A sentence of caption ``index`` as it was chosen, and its row of the trace if that is asked for."""

    index: int
    text: str
    step: Row | None


@dataclass(frozen=True)
class CaptionResult:
    """A finished caption, in plain data; ``num_tokens`` are those of its text."""

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
        """Of ``caption``, without its image, and without its trace unless that is asked for."""
        chosen = [len(step.candidates[step.choice].token_ids) for step in caption.trace]
        cost = caption.cost
        return cls(
            index=index,
            method=caption.method,
            text=caption.text,
            sentences=caption.sentences,
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
"""What is told while captions are written; an error ends it."""


@dataclass(frozen=True)
class Reply:
    """What the chunks of a response share."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, captions: Sequence[CaptionResult], *, trace: bool) -> Row:
        """The body of a response that is not streamed."""
        choices = [
            {
                "index": one.index,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "finish_reason": one.finish_reason,
                "logprobs": None,
                **({"visvm": _story(one)} if trace else {}),
            }
            for one in captions
        ]
        extra = {"visvm": _story(captions[0])} if trace else {}
        return self._head("chat.completion") | {"choices": choices, "usage": usage(captions), **extra}

    def first(self, index: int) -> Row:
        """The chunk that opens caption ``index``."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def sentence(self, index: int, text: str, step: Row | None = None) -> Row:
        """The chunk of a sentence, with its trace if that is asked for."""
        return self._chunk(index, {"content": text}) | ({"visvm": {"step": step}} if step else {})

    def last(self, written: CaptionResult, *, trace: bool) -> Row:
        """The chunk that ends a caption, with its cost if the trace is asked for."""
        extra = {"visvm": {"method": written.method, "cost": written.cost}} if trace else {}
        return self._chunk(written.index, {}, written.finish_reason) | extra

    def usage(self, captions: Sequence[CaptionResult]) -> Row:
        """The chunk after the last of all captions, where stream_options.include_usage asks for it."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": usage(captions)}

    def _chunk(self, index: int, delta: Row, finish_reason: str | None = None) -> Row:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _head(self, kind: str) -> Row:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _story(one: CaptionResult) -> Row:
    names = ("method", "sentences", "values", "trace", "cost")
    return {name: getattr(one, name) for name in names}


def usage(captions: Sequence[CaptionResult]) -> Row:
    """OpenAI's token counts: the image's and prompt's once a caption, and those of the captions."""
    prompt, completion = (
        sum(getattr(c, name) for c in captions) for name in ("num_prompt_tokens", "num_tokens")
    )
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_list(methods: Sequence[str]) -> Row:
    """The body of GET /v1/models."""
    extra: dict[str, Row] = {"policy": {}, "policy+search": {"visvm": {"methods": list(methods)}}}
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "visvm"} for name in MODELS]
    return {"object": "list", "data": [model | extra[str(model["id"])] for model in models]}


def sse(data: Row | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, allow_nan=False)
    return f"data: {text}\n\n".encode()


DONE = sse("[DONE]")
