"""The caption stage: a search over the policy, with the scorer that its method needs."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from actors.batch.rows import FAULT, Row, each, load, table
from visvm.loading import load_policy
from visvm.records import Caption, Request
from visvm.schemas import CAPTIONS
from visvm.scorers import clear, load_judged
from visvm.search import SearchConfig, find_method, make_search
from visvm.value import FutureScorer, ValueScorer

CAPTIONED = pa.schema([*CAPTIONS, *pa.schema(FAULT)])


class CaptionWriter:
    """UNITS -> CAPTIONED: one caption per unit, by one method."""

    def __init__(
        self,
        policy: dict[str, Any],
        *,
        method: str,
        search: dict[str, Any],
        scorer: dict[str, Any],
        seed: int,
    ) -> None:
        """Take keywords of ``load_policy``, ``SearchConfig`` and ``load_scorer``.

        "calibration" among those of ``search`` is what every row reports.
        """
        self.policy = load_policy(**policy)
        options = {**search}
        self.calibration = options.pop("calibration", None)
        self.search = make_search(method, SearchConfig(**options))
        needs, judges = find_method(method).needs, self.search.judges
        self.scorer = load_judged(needs, judges, **scorer, policy=self.policy)
        self.seed, self.unit = seed, search.get("unit", "sentence")

    @property
    def cache_lookups(self) -> tuple[int, int]:
        """Look-ups of an image in the value model's store so far: hits and misses."""
        scorer = self.scorer.value if isinstance(self.scorer, FutureScorer) else self.scorer
        return (scorer.hits, scorer.misses) if isinstance(scorer, ValueScorer) else (0, 0)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return table(each(load(batch), self._write, stage="caption"), CAPTIONED)

    def _write(self, rows: list[Row]) -> list[Row]:
        clear(self.scorer)
        requests = [Request(row["image"], row["prompt"], self.seed, unit=self.unit) for row in rows]
        captions = self.search(self.policy, self.scorer, requests)
        own = {"calibration": self.calibration}
        return [{**row, **_columns(caption), **own} for row, caption in zip(rows, captions, strict=True)]


def _columns(caption: Caption) -> Row:
    return {
        "content_hash": caption.request.image.content_hash,
        "method": caption.method,
        "caption": caption.text,
        "sentences": caption.sentences,
        "values": caption.values,
        "finish_reason": caption.finish_reason,
        "trace": [step.row() for step in caption.trace],
        "num_generated_tokens": caption.cost.num_generated_tokens,
        "num_value_calls": caption.cost.num_value_calls,
        "seconds": caption.cost.seconds,
    }
