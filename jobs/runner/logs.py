"""How a job logs: lines for people, or with VISVM_LOG=json one JSON object a line, with ids."""

from __future__ import annotations

import json
import logging
import os
import sys
import uuid
import warnings
from datetime import UTC, datetime
from typing import Any

LOG = "VISVM_LOG"
OURS = ("visvm", "actors", "jobs", "__main__")
NOISY = ("ray", "transformers", "huggingface_hub", "open_clip", "accelerate", "deepspeed", "matplotlib")
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
RUN_ID = uuid.uuid4().hex[:12]  # of this process


def is_json() -> bool:
    """Return whether logs are asked for as JSON.

    Raises:
        ValueError: VISVM_LOG is neither "text" nor "json".
    """
    value = os.environ.get(LOG, "text")
    if value not in ("text", "json"):
        raise ValueError(f"{LOG} = {value!r}: expected text or json")
    return value == "json"


def setup() -> None:
    """Send this process's log to stderr in the form that is asked for."""
    handler = BarHandler()
    if is_json():
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=is_json())
    _quiet_others()


def _quiet_others() -> None:
    """Show our own lines, and only the errors of libraries: a user can do nothing about their warnings."""
    for name in OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


class BarHandler(logging.StreamHandler[Any]):
    """Writes to stderr, above the progress bar if one is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        tqdm = sys.modules.get("tqdm")  # not imported: no bar
        if tqdm is None:
            super().emit(record)
        else:
            tqdm.tqdm.write(self.format(record), file=sys.stderr)


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message, and the ids of run and Ray job."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
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
