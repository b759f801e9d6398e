"""Captions as training examples: reading, splitting by image, and tokenising as the policy does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from visvm import images, storage
from visvm.families import Family
from visvm.prompts import DETAIL_PROMPTS
from visvm.storage.json_rows import CAPTION_KEYS, first, read_json_rows
from visvm.tables import table_files

URI_KEYS = ("uri", "image", "image_path", "file_name")
COLUMNS = (*URI_KEYS, *CAPTION_KEYS, "image_id", "prompt", "finish_reason", "content_hash")
SECTIONS = ("annotations", "captions", "data")
PARQUET = b"PAR1"
IGNORED = -100  # the label that the loss ignores


@dataclass(frozen=True)
class CaptionExample:
    """A caption to learn; if the policy ``ended`` it, the end-of-text token is learned too."""

    image_id: str
    uri: str
    prompt: str
    caption: str
    ended: bool
    content_hash: str | None = None


def read_captions(places: Sequence[str]) -> list[CaptionExample]:
    """Read captions of run folders, parquet (schema ``schemas.CAPTIONS``) or JSON, local or by URI.

    A row has a caption and the path of its image; the prompt is else the first of ``DETAIL_PROMPTS``, and the
    caption else ended by its author. The examples are sorted by image, prompt and text: the order of the
    rows in a folder depends on timing.

    Raises:
        ValueError: a place is missing, has no captions, or a row is malformed.
    """
    examples = [example for place in places for example in _read(place)]
    return sorted(examples, key=lambda one: (one.image_id, one.prompt, one.caption))


def _read(place: str) -> list[CaptionExample]:
    found = [_example(file, where, row) for file, where, row in _rows(place)]
    examples = [example for example in found if example.caption.strip()]
    if not examples:
        raise ValueError(f"{place} holds no captions: no row has a text")
    return examples


def _rows(place: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield each row with its file and its place there."""
    for file in table_files(place, "captions"):
        if storage.read(file, len(PARQUET)) != PARQUET:
            yield from ((file, where, row) for where, row in read_json_rows(file, SECTIONS))
            continue
        try:
            names = storage.parquet(file).schema_arrow.names
            rows = storage.read_table(file, [name for name in COLUMNS if name in names]).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"cannot read captions from {place}: {str(error).splitlines()[0]}") from None
        yield from ((file, f"row {i}", row) for i, row in enumerate(rows))


def _example(file: str, where: str, row: Mapping[str, Any]) -> CaptionExample:
    uri, caption = first(row, URI_KEYS), first(row, CAPTION_KEYS)
    if not isinstance(uri, str) or not isinstance(caption, str | None):
        expected = f"the path of an image under one of {', '.join(URI_KEYS)}, and a caption"
        raise ValueError(f"{file} {where}: expected {expected} as text: {row!r:.200}")
    return CaptionExample(
        str(first(row, ("image_id",)) or uri),
        storage.resolve(storage.parent(file), uri),
        _prompt(row.get("prompt")) or DETAIL_PROMPTS[0],
        caption or "",
        row.get("finish_reason") in (None, "stop"),
        row.get("content_hash"),
    )


def _prompt(given: Any) -> str | None:
    """Return a prompt that is given as text, or as the message of visvm export."""
    return given[0]["content"] if isinstance(given, list) else given


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
