"""What is counted per caption, and the metrics: ratios of these counts, summed over captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visvm.metrics.chair import Chair
from visvm.metrics.coco import image_key
from visvm.metrics.length import num_sentences, num_words
from visvm.metrics.ratio_metrics import ImageCounts, RatioMetrics
from visvm.metrics.repetition import ngrams, num_repeated_sentences, words

METRICS = RatioMetrics(
    counts=(
        *("captions", "hallucinating", "mentions", "hallucinated", "truth", "recalled", "sentences", "words"),
        *("distinct", "distinct_hallucinated", "mean_named_and_true", "repeated_sentences"),
        *("words_1", "distinct_words_1", "words_2", "distinct_words_2", "words_3", "distinct_words_3"),
    ),
    metrics={
        "chair_s": ("hallucinating", "captions"),
        "chair_i": ("hallucinated", "mentions"),
        "chair_i_distinct": ("distinct_hallucinated", "distinct"),
        "recall": ("recalled", "truth"),
        "precision": ("recalled", "distinct"),
        "f1": ("recalled", "mean_named_and_true"),
        "repetition": ("repeated_sentences", "sentences"),
        **{f"distinct_{n}": (f"distinct_words_{n}", f"words_{n}") for n in (1, 2, 3)},
        "num_sentences": ("sentences", "captions"),
        "num_words": ("words", "captions"),
        "num_objects": ("distinct", "captions"),
    },
)


def count(rows: Sequence[Mapping[str, Any]], judged: Sequence[Chair]) -> ImageCounts:
    """Sum the counts over the captions of each image, by ``image_key``."""
    return METRICS.add_up(
        (image_key(row["image_id"]), _objects(one) | _text(row["caption"]))
        for row, one in zip(rows, judged, strict=True)
    )


def _objects(one: Chair) -> dict[str, float]:
    distinct = set(one.objects)
    return {
        "captions": 1,
        "hallucinating": bool(one.hallucinated),
        "mentions": len(one.objects),
        "hallucinated": len(one.hallucinated),
        "truth": len(one.truth),
        "recalled": len(one.recalled),
        "distinct": len(distinct),
        "distinct_hallucinated": len(distinct - one.truth),
        "mean_named_and_true": (len(distinct) + len(one.truth)) / 2,
    }


def _text(caption: str) -> dict[str, float]:
    found = {n: ngrams(words(caption), n) for n in (1, 2, 3)}
    return {
        "sentences": num_sentences(caption),
        "words": num_words(caption),
        "repeated_sentences": num_repeated_sentences(caption),
        **{f"words_{n}": len(grams) for n, grams in found.items()},
        **{f"distinct_words_{n}": len(set(grams)) for n, grams in found.items()},
    }
