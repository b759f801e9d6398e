"""How a job logs: lines for people, or with VISVM_LOG=json one JSON object a line, with ids."""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
from datetime import UTC, datetime
from typing import Any

LOG = "VISVM_LOG"
RUN_ID = uuid.uuid4().hex[:12]  # of this process


def is_json() -> bool:
    """Whether logs are asked for as JSON.

    Raises:
        ValueError: VISVM_LOG is neither "text" nor "json".
    """
    value = os.environ.get(LOG, "text")
    if value not in ("text", "json"):
        raise ValueError(f"{LOG} = {value!r}: expected text or json")
    return value == "json"


def setup() -> None:
    """Send this process's log to stderr in the form that is asked for."""
    if is_json():
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, and the ids of run and Ray job."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "run": RUN_ID,
            "pid": record.process,
            **_ray_ids(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def _ray_ids() -> dict[str, Any]:
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    return {"job_id": context.get_job_id(), "node_id": context.get_node_id()}
