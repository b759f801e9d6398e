"""The value model as a scorer of candidate sentences, on the shared-prefix engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visvm.engine import Block, Engine, Fork
from visvm.records import Question, Scorer
from visvm.value.model import VisionValueModel


class ValueScorer:
    """A ``Scorer``: the value of each candidate sentence, over pictures that are encoded once.

    ``centre`` moves the reward at which a sentence is worth nothing, without training again:
    V_c = V - (c - c0) / s * N; a higher centre ends captions earlier. The keys and values of the
    pictures are kept up to ``cache_mb`` MiB; ``hits`` and ``misses`` count look-ups.
    """

    def __init__(self, model: VisionValueModel, *, centre: float | None = None, cache_mb: int = 4096) -> None:
        self.model, self.config, self.reader = model.eval(), model.config, model.reader
        self.centre = self.config.reward_centre if centre is None else centre
        self.engine = Engine(model.family)
        self.cache_bytes = cache_mb * 2**20
        self.hits = self.misses = 0
        self._prefixes: OrderedDict[str, Block] = OrderedDict()

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

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """V (or the future F) of every candidate, in units of the reward scale."""
        shift = (self.centre - self.config.reward_centre) / self.config.reward_scale
        return [(rows[:, 0] - shift * rows[:, 1]).tolist() for rows in self.outputs(questions)]

    @torch.inference_mode()
    def outputs(self, questions: Sequence[Question]) -> list[Tensor]:
        """Value and length of every candidate of each question: [candidates, 2], on the CPU."""
        if not questions:
            return []
        prefixes = self._encode(questions)
        suffixes = (
            self._read(prefixes, questions) if self.config.state == "prefix" else [None] * len(prefixes)
        )
        candidates = [
            [
                self.reader.sentence_ids(text, ended=ended)
                for text, ended in zip(q.sentences, q.ended, strict=True)
            ]
            for q in questions
        ]
        hidden, _ = self._step(prefixes, suffixes, candidates)
        outputs = []
        for states, ids, question in zip(hidden, candidates, questions, strict=True):
            last = [len(row) - 1 for row in ids]
            values = self.model.head(states[list(range(len(ids))), last]).cpu()
            outputs.append(self._nothing_follows(values, question.ended))
        return outputs

    def _nothing_follows(self, values: Tensor, ended: Sequence[bool]) -> Tensor:
        """The future of a caption that has ended is known: nothing."""
        if self.config.predict == "future":
            values[torch.tensor(ended)] = 0
        return values

    def _encode(self, questions: Sequence[Question]) -> list[Block]:
        """The pictures' keys and values; those not used for longest are dropped above ``cache_mb``."""
        pictures = {question.picture.content_hash: question.picture for question in questions}
        missing = [picture for key, picture in pictures.items() if key not in self._prefixes]
        self.misses += len(missing)
        self.hits += len(pictures) - len(missing)
        if missing:
            keys = [picture.content_hash for picture in missing]
            self._prefixes.update(zip(keys, self.engine.prefill(missing), strict=True))
        for key in pictures:
            self._prefixes.move_to_end(key)
        blocks = {key: self._prefixes[key] for key in pictures}
        used = sum(block.kv.nbytes for block in self._prefixes.values())
        while used > self.cache_bytes:
            used -= self._prefixes.popitem(last=False)[1].kv.nbytes
        return [blocks[question.picture.content_hash] for question in questions]

    def _read(self, prefixes: Sequence[Block], questions: Sequence[Question]) -> list[Block | None]:
        """The sentences so far, behind their pictures, where they are part of the state."""
        if self.config.state == "sentence" or not any(question.prefix for question in questions):
            return [None] * len(questions)
        ids = [
            [tuple(token for text in q.prefix for token in self.reader.sentence_ids(text, False))]
            for q in questions
        ]
        _, fork = self._step(prefixes, [None] * len(questions), ids)
        return [fork.block(i, len(row)) if row else None for i, [row] in enumerate(ids)]

    def _step(
        self, prefixes: Sequence[Block], suffixes: Sequence[Block | None], ids: list[list[tuple[int, ...]]]
    ) -> tuple[Tensor, Fork]:
        """Hidden states [branches, width, longest, hidden] of token rows behind each branch."""
        width = max(len(rows) for rows in ids)
        longest = max(len(row) for rows in ids for row in rows)
        tokens = torch.zeros(len(ids), width, longest, dtype=torch.long)
        for i, rows in enumerate(ids):
            for j, row in enumerate(rows):
                tokens[i, j, : len(row)] = torch.tensor(row)
        fork = self.engine.fork(prefixes, suffixes, width=width)
        return fork.step(tokens.flatten(0, 1)).unflatten(0, (len(ids), width)), fork


class FutureScorer:
    """A ``Scorer``: the exact reward now and the learned future, (r - c) / s + gamma * F_c.

    Raises:
        ValueError: the value model was not trained with predict="future".
    """

    def __init__(self, reward: Scorer, value: ValueScorer) -> None:
        if value.config.predict != "future":
            raise ValueError(f"the value model predicts {value.config.predict!r}; predict='future' is needed")
        self.reward, self.value = reward, value

    def score(self, questions: Sequence[Question]) -> list[list[float]]:
        """The return of every candidate, in units of the reward scale."""
        config, centre = self.value.config, self.value.centre
        rewards, futures = self.reward.score(questions), self.value.score(questions)
        return [
            [(r - centre) / config.reward_scale + config.gamma * f for r, f in zip(now, after, strict=True)]
            for now, after in zip(rewards, futures, strict=True)
        ]
