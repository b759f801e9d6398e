"""Results on the Hugging Face hub: `--push-to-hub ORG/NAME` uploads what a job has made."""

from __future__ import annotations

import logging

from pydantic import Field

from jobs.inputs.shared_paths import SharedPaths
from visvm import storage
from visvm.storage import mirror

DATA = ("README.md", "metrics.json", "captions.jsonl", "*.parquet")
logger = logging.getLogger(__name__)


class HubOptions(SharedPaths):
    """Where a result is published."""

    OPERATIONAL = SharedPaths.OPERATIONAL | {"push_to_hub"}

    push_to_hub: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="ORG/NAME: upload the result to this repository of the Hugging Face hub (private if new)",
    )


def check_login(name: str) -> None:
    """Raise ValueError, before any work begins, if the hub does not know who uploads to ``name``."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise ValueError(
            f"cannot push to {name}: {error}. Run `hf auth login` or set HF_TOKEN, or leave --push-to-hub out"
        ) from None


def push(run: str, name: str) -> str:
    """Upload RUN/model as a model, else the tables of RUN as a dataset; return the repository's address.

    Config files stay here: they hold paths of this machine.
    """
    from huggingface_hub import HfApi

    model, api = storage.join(run, "model"), HfApi()
    is_model = storage.is_folder(model)
    kind = "model" if is_model else "dataset"
    repository = api.create_repo(name, repo_type=kind, private=True, exist_ok=True)
    api.upload_folder(
        repo_id=name,
        repo_type=kind,
        folder_path=mirror.local(model if is_model else run),
        allow_patterns=None if is_model else list(DATA),
        commit_message="Upload by visvm",
    )
    logger.info("pushed to %s", repository)
    return str(repository)
