"""Jobs that ask an OpenAI-compatible endpoint: their flags, and replies that outlive a crash."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pydantic import Field

from jobs.runner.part_files import PartFiles, read_rows
from visvm import storage
from visvm.config import Config

if TYPE_CHECKING:
    from visvm.metrics.chat_client import MakeMessages

logger = logging.getLogger(__name__)


class EndpointConfig(Config):
    """The endpoint, and how it is asked."""

    OPERATIONAL = Config.OPERATIONAL | {"endpoint", "concurrency", "max_retries", "request_timeout"}

    endpoint: str | None = Field(
        None, description="base URL of an OpenAI-compatible endpoint (.../v1); its key: OPENAI_API_KEY"
    )
    model: str | None = Field(None, description="model that is asked at the endpoint")
    concurrency: int = Field(8, ge=1, description="requests at a time")
    max_retries: int = Field(5, ge=0, description="retries of a request, with back-off")
    request_timeout: float = Field(600, gt=0, description="seconds for a request")


def ask(
    config: EndpointConfig, folder: str, conversations: Mapping[str, MakeMessages], **options: Any
) -> dict[str, str]:
    """Return the reply to each conversation; those in ``folder``, from an earlier run, are not asked again.

    A reply is kept under a hash of what was asked, so a changed question is asked anew.

    Raises:
        ValueError: no endpoint or model is given, or the endpoint refuses the key or the model.
        RuntimeError: some have no reply after all retries; the others are kept.
    """
    import pyarrow as pa

    from visvm.metrics.chat_client import Endpoint, ask_all

    if not config.endpoint or not config.model:
        raise ValueError("give --endpoint and --model")
    how = (config.concurrency, config.max_retries, config.request_timeout)
    endpoint = Endpoint(config.endpoint, config.model, *how)
    keys = {name: _key(config.model, one(), options) for name, one in conversations.items()}
    known = {row["key"]: row["reply"] for row in read_rows(folder)}
    todo = {key: conversations[name] for name, key in keys.items() if key not in known}
    schema = pa.schema([("key", pa.string()), ("reply", pa.string())])
    errors: list[str] = []

    async def collect() -> None:
        files = PartFiles(folder, schema, seconds=2)
        try:
            async with aclosing(ask_all(endpoint, todo, **options)) as replies:
                async for one in replies:
                    if one.text is None:
                        errors.append(str(one.error))
                        continue
                    known[one.id] = one.text
                    files.add(pa.Table.from_pylist([{"key": one.id, "reply": one.text}], schema))
        finally:
            files.flush()

    asyncio.run(collect())
    if errors:
        raise RuntimeError(f"{len(errors)} of {len(todo)} requests failed, such as: {errors[0]}")
    logger.info("%d replies, %d of them from before", len(keys), len(keys) - len(todo))
    return {name: known[key] for name, key in keys.items()}


def write_answers(out: str, answers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write OUT/answers.jsonl, one answer per line, by id."""
    lines = [json.dumps({"id": key, **row}, ensure_ascii=False) + "\n" for key, row in answers.items()]
    storage.write(storage.join(out, "answers.jsonl"), "".join(lines))


def _key(model: str, messages: Any, options: Mapping[str, Any]) -> str:
    body = json.dumps([model, messages, options], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()
