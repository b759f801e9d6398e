"""The value model as a scorer of candidate sentences, on the shared-prefix engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from visvm.engine import KV, Engine, Prefix
from visvm.records import DecodedImage, Question
from visvm.reward import ClipScorer
from visvm.value.model import StateReader, VisionValueModel

MAX_QUESTIONS = 32  # answered in one pass: bounds what a pass takes beside the stored images

CACHE_MB = 4096  # for the keys and values of images


class ValueScorer:
    """A ``Scorer``: the value of each candidate sentence, over images that are encoded once.

    ``centre`` moves the reward at which a sentence is worth nothing, without training again:
    V_c = V - (c - c0) / s * N; a higher centre ends captions earlier. The keys and values of the
    last ``max_images`` are kept, within ``cache_mb`` MiB; ``hits`` and ``misses`` count look-ups.
    """

    def __init__(
        self,
        model: VisionValueModel,
        *,
        centre: float | None = None,
        max_images: int = 64,
        cache_mb: int = CACHE_MB,
    ) -> None:
        self.model, self.config, self.reader = model.eval(), model.config, model.reader
        self.centre = self.config.reward_centre if centre is None else centre
        self.engine = Engine(model.family, max_images=max_images, budget=cache_mb * 2**20)
        self.hits = self.misses = 0
        self._prefixes: OrderedDict[str, Prefix] = OrderedDict()

    @classmethod
    def from_pretrained(
        cls, name: str, *, device: str = "cpu", dtype: str = "float32", **options: Any
    ) -> ValueScorer:
        """Load a value model's directory or hub id; ``options`` as of the constructor.

        Raises:
            ValueError: it cannot be found, or is not a value model.
        """
        model = VisionValueModel.from_pretrained(name, dtype=getattr(torch, dtype))
        return cls(model.to(device), **options)  # type: ignore[arg-type]

    def clear(self) -> None:
        """Forget all images: what is computed next does not depend on what came before, to the bit."""
        self._prefixes.clear()
        self.engine.clear()

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """V (or the future F) of every candidate, in units of the reward scale."""
        shift = (self.centre - self.config.reward_centre) / self.config.reward_scale
        return [(rows[:, 0] - shift * rows[:, 1]).tolist() for rows in self.outputs(questions)]

    @torch.inference_mode()
    def outputs(self, questions: Sequence[Question]) -> list[Tensor]:
        """Value and length of every candidate of each question: [candidates, 2], on the CPU.

        Raises:
            ValueError: an image alone does not fit into ``cache_mb``.
        """
        outputs: list[Tensor] = []
        while len(outputs) < len(questions):
            rest = questions[len(outputs) : len(outputs) + MAX_QUESTIONS]
            outputs += self._answer(rest, self._encode(rest))
        return outputs

    def _answer(self, questions: Sequence[Question], prefixes: Sequence[Prefix]) -> list[Tensor]:
        """The outputs of the first questions, as many as there are prefixes."""
        befores, ends = self._read_before(questions, prefixes)
        candidates = [_ids(self.reader, question) for question in questions[: len(prefixes)]]
        behind = [prefix for prefix, rows in zip(prefixes, candidates, strict=True) for _ in rows]
        before = [kv for kv, rows in zip(befores, candidates, strict=True) for _ in rows]
        texts = [row for rows in candidates for row in rows]
        hidden, _ = self.engine.read(behind, texts, before)
        # Where a candidate has no token of its own, nothing was said: it is worth what came before.
        ends = [end for end, rows in zip(ends, candidates, strict=True) for _ in rows]
        states = [hidden[i, len(row) - 1] if row else ends[i] for i, row in enumerate(texts)]
        values = self.model.head(torch.stack(states)).cpu()
        parts = values.split([len(rows) for rows in candidates])
        return [self._nothing_follows(*pair) for pair in zip(parts, questions, strict=False)]

    def _nothing_follows(self, values: Tensor, question: Question) -> Tensor:
        """The future of a caption that has ended is known: nothing."""
        if self.config.predict == "future":
            values[torch.tensor(question.ended)] = 0
        return values

    def _encode(self, questions: Sequence[Question]) -> list[Prefix]:
        """The stored images of the first questions: of as many as there is room for, one at least."""
        wanted = {question.image.content_hash: question.image for question in questions}
        known = [key for key in wanted if key in self._prefixes]
        missing = [image for key, image in wanted.items() if key not in self._prefixes]
        self.hits += len(known)
        self.misses += len(missing)
        for key in known:
            self._prefixes.move_to_end(key)
        while len(self._prefixes) > len(known) and self.engine.images.num_free < len(missing):
            self._prefixes.popitem(last=False)
        self._store(missing)
        if questions[0].image.content_hash not in self._prefixes:
            self._prefixes.clear()  # it is larger than all that were stored
            self._store(missing)
        stored = takewhile(lambda question: question.image.content_hash in self._prefixes, questions)
        return [self._prefixes[question.image.content_hash] for question in stored]

    def _store(self, images: Sequence[DecodedImage]) -> None:
        keys = [image.content_hash for image in images]
        self._prefixes.update(zip(keys, self.engine.prefill(images), strict=False))

    def _read_before(
        self, questions: Sequence[Question], prefixes: Sequence[Prefix]
    ) -> tuple[list[KV | None], list[Tensor]]:
        """Keys and values of the sentences so far, where they are part of the state; last hidden states."""
        befores: list[KV | None] = [None] * len(prefixes)
        ends = [prefix.state for prefix in prefixes]
        if self.config.state == "sentence":
            return befores, ends
        texts = {
            i: [token for text in question.prefix for token in self.reader.sentence_ids(text, False)]
            for i, question in enumerate(questions[: len(prefixes)])
            if question.prefix
        }
        if texts:
            hidden, kv = self.engine.read([prefixes[i] for i in texts], list(texts.values()))
            for row, (i, ids) in enumerate(texts.items()):
                befores[i] = kv.row(row, 0, len(ids))
                ends[i] = hidden[row, len(ids) - 1] if ids else ends[i]
        return befores, ends


def _ids(reader: StateReader, question: Question) -> list[tuple[int, ...]]:
    pairs = zip(question.sentences, question.ended, strict=True)
    return [reader.sentence_ids(text, ended=ended) for text, ended in pairs]


class FutureScorer:
    """A ``Scorer``: the exact reward now and the learned future, (r - c) / s + gamma * F_c.

    Raises:
        ValueError: the value model was not trained with predict="future".
    """

    def __init__(self, reward: ClipScorer, value: ValueScorer) -> None:
        if value.config.predict != "future":
            raise ValueError(f"the value model predicts {value.config.predict!r}; predict='future' is needed")
        self.reward, self.value = reward, value

    def clear(self) -> None:
        """Forget all images and sentences."""
        self.reward.clear()
        self.value.clear()

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """The return of every candidate, in units of the reward scale."""
        config, centre = self.value.config, self.value.centre
        rewards, futures = self.reward.score(questions), self.value.score(questions)
        return [
            [(r - centre) / config.reward_scale + config.gamma * f for r, f in zip(now, after, strict=True)]
            for now, after in zip(rewards, futures, strict=True)
        ]
