"""Versions, devices and Ray, for bug reports.

visvm env
visvm env --json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from jobs.runner.flags import Parser

PACKAGES = (
    "visvm",
    "ray",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "deepspeed",
    "open-clip-torch",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "numpy",
    "pillow",
    "pydantic",
)


def collect() -> dict[str, Any]:
    """Return what a bug report needs; nothing is started, and no user, host or folder is named."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "ray": _ray(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu_cores": os.cpu_count(),
        "memory_gib": _gib(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory_gib": _gib(gpu.total_memory)} for gpu in gpus],
    }


def _gib(num_bytes: int) -> float:
    return round(num_bytes / 2**30, 1)


def _ray() -> dict[str, Any]:
    """Return whether jobs would attach to a cluster or start their own, and Ray's settings."""
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("RAY_")}
    secret = {name: "(set)" for name in settings if "TOKEN" in name or "ADDRESS" in name}
    return {"would": "attach" if "RAY_ADDRESS" in settings else "start its own", **settings, **secret}


def table(facts: dict[str, Any]) -> str:
    """Return the facts as indented lines."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [key, *(f"  {name:18}{_text(item)}" for name, item in value.items())]
        else:
            lines.append(f"{key:20}{value}")
    return "\n".join(lines)


def _text(item: Any) -> str:
    if isinstance(item, list):
        return "; ".join(f"{gpu['name']} ({gpu['memory_gib']} GiB)" for gpu in item) or "none"
    return "not installed" if item is None else str(item)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = Parser(
        prog="visvm env", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args(argv)
    facts = collect()
    print(json.dumps(facts, indent=2) if given.json else table(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
