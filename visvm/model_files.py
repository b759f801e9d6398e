"""The files of a model's directory, checked in milliseconds, before workers take minutes to find a fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


class Readable(Protocol):
    """A file that is open for reading."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes."""


def check_files(folder: str, *, has_tokenizer: bool) -> None:
    """Check that a local directory's weights are there and whole, and its tokenizer where it needs one.

    Hub ids, stores and adapters, whose base has the other files, are left to the loading.

    Raises:
        ValueError: naming the file.
    """
    path = Path(folder)
    if not path.is_dir() or (path / "adapter_config.json").is_file():
        return
    for file in _weights(path):
        with file.open("rb") as stream:
            check_safetensors(str(file), stream, file.stat().st_size)
    if has_tokenizer and not any((path / name).is_file() for name in TOKENIZERS):
        raise ValueError(f"model {folder}: it has no tokenizer (tokenizer.json); copy it from the base model")


def _weights(path: Path) -> list[Path]:
    named: set[str] = set()
    for index in path.glob("*.safetensors.index.json"):
        try:
            named |= set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError):
            raise ValueError(f"model file {index} is damaged: expected a weight_map") from None
    if missing := sorted(name for name in named if not (path / name).is_file()):
        raise ValueError(f"model {path}: {missing[0]} is missing, which its index names")
    files = sorted(path.glob("*.safetensors"))
    if not files and not [*path.glob("*.bin"), *path.glob("*.pt")]:
        raise ValueError(f"model {path}: it has no weights (*.safetensors)")
    return files


def check_safetensors(name: str, stream: Readable, size: int) -> None:
    """Check that a file of ``size`` bytes is as long as its header says.

    Raises:
        ValueError: it is not, or the header cannot be read.
    """
    try:
        length = int.from_bytes(stream.read(8), "little")
        if length > size:
            raise ValueError
        header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise ValueError(f"model file {name} is damaged: its header cannot be read") from None
    if (expected := 8 + length + max(ends, default=0)) != size:
        raise ValueError(f"model file {name} is damaged: it has {size} bytes, its header says {expected}")
