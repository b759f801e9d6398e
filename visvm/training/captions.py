"""Captions as training examples: reading, splitting by image, and tokenising as the policy does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from visvm import images, storage
from visvm.families import Family
from visvm.tables import read_columns

COLUMNS = ["image_id", "uri", "prompt", "caption", "finish_reason"]
NUM_CONCURRENT_CHECKS = 16  # each is a request to a store
IGNORED = -100  # the label that the loss ignores


@dataclass(frozen=True)
class CaptionExample:
    """A caption to learn; if the policy ``ended`` it, the end-of-text token is learned too."""

    image_id: str
    uri: str
    prompt: str
    caption: str
    ended: bool


def read_captions(folders: Sequence[str]) -> list[CaptionExample]:
    """Read the captions of parquet folders or files (schema ``schemas.CAPTIONS``), local or by URI.

    They are sorted by image, prompt and text: the order of the rows in a folder depends on timing.

    Raises:
        ValueError: a folder is missing, has no captions, or has other columns.
    """
    examples = [example for folder in folders for example in _read_folder(folder)]
    return sorted(examples, key=lambda one: (one.image_id, one.prompt, one.caption))


def _read_folder(folder: str) -> list[CaptionExample]:
    rows = [
        row
        for row in read_columns(folder, "captions", columns=COLUMNS)
        if row["caption"] and row["caption"].strip()
    ]
    if not rows:
        raise ValueError(f"{folder} holds no captions: no row has a text")
    return [
        CaptionExample(
            row["image_id"], row["uri"], row["prompt"], row["caption"], row["finish_reason"] == "stop"
        )
        for row in rows
    ]


def check_images(examples: Sequence[CaptionExample]) -> None:
    """Check that the images of all captions exist.

    Raises:
        ValueError: images are missing; it names their number and one of them.
    """
    uris = sorted({example.uri for example in examples if "#" not in example.uri})
    with ThreadPoolExecutor(NUM_CONCURRENT_CHECKS) as pool:
        missing = [uri for uri, there in zip(uris, pool.map(storage.is_file, uris), strict=True) if not there]
    if missing:
        raise ValueError(f"{len(missing)} of {len(uris)} captioned images do not exist, e.g. {missing[0]}")


class HasImageId(Protocol):
    """Anything that belongs to an image."""

    @property
    def image_id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=HasImageId)


def split(examples: Sequence[ItemT], share: float) -> tuple[list[ItemT], list[ItemT]]:
    """Split into (train, held out) by the hash of the image ids, so that no image is in both.

    ``share`` of the images, rounded up, are held out; none if there is only one image.
    """
    ids = sorted({example.image_id for example in examples}, key=_hash)
    held_out = set(ids[: math.ceil(share * len(ids))]) if len(ids) > 1 else set()
    return (
        [example for example in examples if example.image_id not in held_out],
        [example for example in examples if example.image_id in held_out],
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Captions(Dataset):
    """A data set of (example, the tokens of its answer)."""

    def __init__(self, examples: Sequence[CaptionExample], family: Family) -> None:
        self.examples = examples
        self.tokens = [answer_ids(family, example) for example in examples]
        self.num_tokens = sum(map(len, self.tokens))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[CaptionExample, list[int]]:
        return self.examples[index], self.tokens[index]


def answer_ids(family: Family, example: CaptionExample) -> list[int]:
    """Return the tokens to learn: the caption, then end-of-text unless length cut the caption."""
    end = [family.tokenizer.eos_token_id] if example.ended else []
    return [*family.text_ids(example.caption), *end]


class Collator:
    """Batches for ``forward``: exactly the tokens the policy reads when it writes, then the answer.

    Images are read here, when their batch comes up.
    """

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(self, batch: Sequence[tuple[CaptionExample, list[int]]]) -> dict[str, Tensor]:
        """Right-padded ``input_ids`` and ``labels`` [B, T] with what the vision encoder takes."""
        family = self.family
        inputs = [
            family.inputs(images.load(example.uri, id=example.image_id), example.prompt)
            for example, _ in batch
        ]
        prefixes = [one["input_ids"][0] for one in inputs]
        answers = [torch.tensor(answer) for _, answer in batch]
        rows = [torch.cat(pair) for pair in zip(prefixes, answers, strict=True)]
        labels = [
            torch.cat([torch.full_like(prefix, IGNORED), answer])
            for prefix, answer in zip(prefixes, answers, strict=True)
        ]
        out = {
            "input_ids": _pad(rows, family.tokenizer.pad_token_id or 0),
            "attention_mask": _pad([torch.ones_like(row) for row in rows], 0),
            "labels": _pad(labels, IGNORED),
        }
        for name in inputs[0].keys() - out.keys():
            parts = [one[name] for one in inputs]
            is_token = parts[0].shape == inputs[0]["input_ids"].shape
            out[name] = _pad([part[0] for part in parts], 0) if is_token else _joined(parts)
            if is_token:  # text tokens are of type 0
                out[name] = F.pad(out[name], (0, out["input_ids"].shape[1] - out[name].shape[1]))
        return out


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first dimension, padded with zeros in the others."""
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    room = [[most - size for most, size in zip(largest, one.shape[1:], strict=True)] for one in tensors]
    pads = [[n for size in reversed(sizes) for n in (0, size)] for sizes in room]
    return torch.cat([F.pad(one, pad) for one, pad in zip(tensors, pads, strict=True)])


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
