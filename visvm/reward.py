"""The process reward: the cosine similarity of a sentence and an image under CLIP or SigLIP.

VisVM's r(y_i, I) is the CLIP similarity of one sentence and the image (arXiv 2412.03704, section 3).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from visvm.families.weights import check_finite
from visvm.records import DecodedImage, Question
from visvm.storage import mirror

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
NUM_CACHED_IMAGES = 4096
NUM_CACHED_SENTENCES = 16384


class ClipScorer:
    """A ``Scorer`` over an open_clip model; recent images and sentences are embedded once and cached.

    Sentences are stripped of surrounding white space; the tokenizer truncates them to the model's context.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Callable[[Any], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 64,
    ) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.dtype = dtype
        self.batch_size = batch_size
        self.clear()

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "cpu", dtype: str = "float32", batch_size: int = 64
    ) -> ClipScorer:
        """Load an open_clip model: "ARCHITECTURE/WEIGHTS", a hub id ("org/repo") or a directory.

        Raises:
            ValueError: the name is unknown, or the model cannot be loaded.
        """
        if dtype not in PRECISIONS:
            raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(PRECISIONS)}")
        import open_clip  # here, since it takes seconds and most processes do not need it

        architecture, weights = parse_name(mirror.local(name))
        options = {"precision": PRECISIONS[dtype], "device": device}
        try:
            model, preprocess = open_clip.create_model_from_pretrained(architecture, weights, **options)
            tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ValueError(f"cannot load the reward model {name}: {error}") from error
        check_finite(model, name)
        return cls(model, preprocess, tokenizer, dtype=getattr(torch, dtype), batch_size=batch_size)

    def clear(self) -> None:
        """Drop all cached embeddings; later scores are then bit-identical, whatever was scored before."""
        self.images, self.texts = EmbeddingCache(NUM_CACHED_IMAGES), EmbeddingCache(NUM_CACHED_SENTENCES)

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """Return the similarity of each sentence of each question to its image, in [-1, 1]."""
        return self.similarities([q.image for q in questions], [q.sentences for q in questions])

    def similarities(
        self, images: Sequence[DecodedImage], sentences: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return ``[i][j]``, the cosine of image i and its sentence j, computed in float32."""
        by_hash = {image.content_hash: image for image in images}
        embedded = self.images.get(list(by_hash), lambda keys: self._embed_images([by_hash[k] for k in keys]))
        texts = self.texts.get(_distinct(sentences), self._embed_texts)
        return [
            [float(texts[sentence.strip()] @ embedded[image.content_hash]) for sentence in group]
            for image, group in zip(images, sentences, strict=True)
        ]

    def _embed_images(self, images: Sequence[DecodedImage]) -> Tensor:
        return self._embed(images, lambda part: torch.stack([self.preprocess(image.pil) for image in part]))

    def _embed_texts(self, sentences: Sequence[str]) -> Tensor:
        return self._embed(sentences, lambda part: self.tokenizer(list(part)))

    @torch.inference_mode()
    def _embed(self, items: Sequence[Any], prepare: Callable[[Sequence[Any]], Tensor]) -> Tensor:
        parts = [items[i : i + self.batch_size] for i in range(0, len(items), self.batch_size)]
        return torch.cat([self._encode(prepare(part)) for part in parts])

    def _encode(self, inputs: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        if inputs.is_floating_point():
            features = self.model.encode_image(inputs.to(device, self.dtype))
        else:
            features = self.model.encode_text(inputs.to(device))
        return nn.functional.normalize(features.float(), dim=-1).cpu()


class EmbeddingCache:
    """An LRU cache of the embeddings of ``capacity`` keys."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._rows: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(self, keys: Sequence[Any], embed: Callable[[list[Any]], Tensor]) -> dict[Any, Tensor]:
        """Return the embedding [dim] of each key; missing ones are computed in one call of ``embed``."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._rows]
        if missing:
            self._rows.update(zip(missing, embed(missing), strict=True))
        found = {key: self._rows[key] for key in keys}
        for key in found:
            self._rows.move_to_end(key)
        while len(self._rows) > self.capacity:
            self._rows.popitem(last=False)
        return found


def parse_name(name: str) -> tuple[str, str | None]:
    """Return open_clip's (model name, pretrained tag) for the name of a reward model.

    Raises:
        ValueError: ``name`` is neither a directory, nor a known architecture with weights, nor a hub id.
    """
    if Path(name).is_dir():
        return f"local-dir:{name}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    import open_clip

    architecture, slash, weights = name.rpartition("/")
    if architecture in open_clip.list_models():
        return architecture, weights
    if not slash:
        raise ValueError(f"reward model {name!r}: expected a directory, ARCHITECTURE/WEIGHTS or a hub id")
    return f"hf-hub:{name}", None


def _distinct(groups: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(sentence.strip() for group in groups for sentence in group))
