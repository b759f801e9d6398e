"""Merge a LoRA adapter into its base: the result, OUT/model, is a policy of its own.

    visvm merge runs/finetune/model --out runs/merged

Every verb takes adapters as they are, and merges them whenever it loads them. Merge once for other programs
(vLLM, llama.cpp), or to train another adapter on the result.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from jobs.runner.command import run
from visvm import storage
from visvm.config import Config, ModelName, Place


class MergeConfig(Config):
    """Configuration of merge: the adapter and where the result goes."""

    policy: ModelName = Field(
        description="directory or hub id of a LoRA adapter", json_schema_extra={"positional": True}
    )
    out: Place = Field(description="run folder")


def work(config: MergeConfig) -> dict[str, Any]:
    """Merge and write OUT/model.

    Raises:
        ValueError: the policy is no adapter, or the weights of its base are quantised.
    """
    from visvm.families import adapters
    from visvm.families.loading import is_quantised, load_model
    from visvm.models import check_policy
    from visvm.storage import mirror

    name = check_policy(config.policy)
    if (base := adapters.base_of(name)) is None:
        raise ValueError(f"{config.policy} is not an adapter: it has no {adapters.CONFIG}")
    if is_quantised(mirror.local(base)):
        raise ValueError(f"the weights of {base} are quantised: merge the adapter into the original weights")
    model, processor = load_model(name, dtype="auto")
    with storage.new_folder(storage.join(config.out, "model")) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / "README.md").write_text(f"# `{base}` with the LoRA adapter `{name}` merged by visvm\n")
    return {"base": base, "adapter": name}


def _next(config: MergeConfig) -> str:
    return f"visvm check {config.out}/model"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return run(MergeConfig, work, argv, doc=__doc__ or "", next_command=_next)


if __name__ == "__main__":
    sys.exit(main())
