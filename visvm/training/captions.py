"""Captions as training examples: read, split by image, tokenised as the policy would write them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from visvm import images, storage
from visvm.families import Family
from visvm.tables import read_rows

COLUMNS = ["image_id", "uri", "prompt", "caption", "finish_reason"]
NUM_LOOKING = 16  # images looked for at a time: each is a request to a store
IGNORED = -100  # labels that count for nothing in the loss


@dataclass(frozen=True)
class CaptionExample:
    """A caption to learn. ``ended``: the policy ended it, so the end-of-text token is learned too."""

    image_id: str
    uri: str
    prompt: str
    caption: str
    ended: bool


def read_captions(folders: Sequence[str]) -> list[CaptionExample]:
    """The captions of parquet folders or files (schema ``schemas.CAPTIONS``), local or by URI.

    They are sorted, for the rows of a folder lie in the order in which they were done.

    Raises:
        ValueError: a folder is missing, empty or holds something else.
    """
    examples = [example for folder in folders for example in _read_folder(folder)]
    return sorted(examples, key=lambda one: (one.image_id, one.prompt, one.caption))


def _read_folder(folder: str) -> list[CaptionExample]:
    rows = [
        row
        for row in read_rows(folder, "captions", columns=COLUMNS)
        if row["caption"] and row["caption"].strip()
    ]
    if not rows:
        raise ValueError(f"{folder} holds no captions: no row with text")
    return [
        CaptionExample(
            row["image_id"], row["uri"], row["prompt"], row["caption"], row["finish_reason"] == "stop"
        )
        for row in rows
    ]


def check_images(examples: Sequence[CaptionExample]) -> None:
    """Refuse captions whose images are gone.

    Raises:
        ValueError: saying how many, and one of them.
    """
    uris = sorted({example.uri for example in examples if "#" not in example.uri})
    with ThreadPoolExecutor(NUM_LOOKING) as pool:
        missing = [uri for uri, there in zip(uris, pool.map(storage.is_file, uris), strict=True) if not there]
    if missing:
        raise ValueError(f"{len(missing)} of {len(uris)} captioned images are gone, e.g. {missing[0]}")


class OfImage(Protocol):
    """Whatever belongs to an image."""

    @property
    def image_id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=OfImage)


def split(examples: Sequence[ItemT], share: float) -> tuple[list[ItemT], list[ItemT]]:
    """(train, held out): a share of the images, chosen by the hash of their ids; one image at least."""
    ids = sorted({example.image_id for example in examples}, key=_hash)
    held_out = set(ids[: math.ceil(share * len(ids))]) if len(ids) > 1 else set()
    return (
        [example for example in examples if example.image_id not in held_out],
        [example for example in examples if example.image_id in held_out],
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Captions(Dataset):
    """Examples with the tokens that follow the image: the prompt's, the caption's, the end's."""

    def __init__(self, examples: Sequence[CaptionExample], family: Family) -> None:
        self.examples = examples
        self.tokens = [answer_ids(family, example) for example in examples]
        self.num_tokens = sum(map(len, self.tokens))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[CaptionExample, list[int]]:
        return self.examples[index], self.tokens[index]


def answer_ids(family: Family, example: CaptionExample) -> list[int]:
    """The tokens to learn: the caption's, then end-of-text unless the caption was cut by length."""
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
        inputs = family.preprocess([images.load(example.uri, id=example.image_id) for example, _ in batch])
        prefixes = [
            self._prefix(ids[mask.bool()], example.prompt)
            for ids, mask, (example, _) in zip(
                inputs["input_ids"], inputs["attention_mask"], batch, strict=True
            )
        ]
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
            **{name: inputs[name] for name in family.image_inputs},
        }
        if family.has_position_axes:
            out["mm_token_type_ids"] = (out["input_ids"] == family.image_token_id).int()
        return out

    def _prefix(self, ids: Tensor, prompt: str) -> Tensor:
        last_image = int((ids == self.family.image_token_id).nonzero()[-1])
        return torch.cat([ids[: last_image + 1], torch.tensor(self.family.prompt_ids(prompt))])


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
