"""Diagnostics of a value model on held-out images: its fit, and whether it merely predicts length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from visvm.training.rollouts import Rollout
from visvm.training.td import discounted_returns, num_pairs, pair_rewards
from visvm.value import VisionValueConfig

Floats = NDArray[np.float64]


class Sentence(NamedTuple):
    """One sentence of a response: position, lengths, Monte Carlo returns (NaN if length cut it off)."""

    image: int
    position: int
    remaining: int
    sentence_words: int
    caption_words: int
    value_return: float
    length_return: float


def sentences(rollout: Rollout, image: int, config: VisionValueConfig) -> Iterator[Sentence]:
    """Yield the sentences of an image that have a TD target, in the order of the pairs of its pack."""
    for response in rollout.responses:
        gains = pair_rewards(
            response, centre=config.reward_centre, scale=config.reward_scale, predict=config.predict
        )
        returns = discounted_returns(gains, gamma=config.gamma)
        words = [len(text.split()) for text in response.sentences]
        for i in range(num_pairs(response)):
            value, length = returns[i] if response.stopped else (np.nan, np.nan)
            yield Sentence(image, i, len(words) - 1 - i, words[i], sum(words), value, length)


def diagnose(rows: Sequence[Sentence], outputs: Floats, errors: Floats) -> dict[str, Any]:
    """Return metrics of ``outputs`` [sentences, 2] (value, length) and squared TD ``errors`` [sentences, 2].

    The returns are Monte Carlo returns of the responses that the policy ended. ``length_only`` is the
    control: how much of the return is explained by position and lengths, without the image. Metrics that
    are undefined are None.
    """
    table = {name: np.array([getattr(row, name) for row in rows], dtype=float) for name in Sentence._fields}
    whole = np.isfinite(table["value_return"])
    table = {name: column[whole] for name, column in table.items()}
    value, length = outputs[whole].T
    returned = table["value_return"]
    controls = np.stack([table[name] for name in ("position", "remaining", "sentence_words")], axis=1)
    return {
        "num_sentences": len(rows),
        "td_loss": _mean(errors[:, 0]),
        "td_loss_length": _mean(errors[:, 1]),
        "explained_variance": _explained(value, returned),
        "explained_variance_length": _explained(length, table["length_return"]),
        "correlation": {
            "return": _correlation(value, returned),
            "return_within_image": _correlation(_within(value, table), _within(returned, table)),
            "caption_words": _correlation(value, table["caption_words"]),
            "sentence_words": _correlation(value, table["sentence_words"]),
            "remaining": _correlation(value, table["remaining"]),
            "position": _correlation(value, table["position"]),
        },
        "length_only": {
            "explained_variance": _explained(_fit(controls, returned), returned),
            "correlation_of_predicted_length_with_return": _correlation(length, returned),
            "partial_correlation_of_value_with_return": _correlation(
                value - _fit(controls, value), returned - _fit(controls, returned)
            ),
        },
        "by_position": _by_position(value, table),
    }


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _explained(predicted: Floats, truth: Floats) -> float | None:
    """Return 1 - Var(truth - predicted) / Var(truth)."""
    variance = truth.var() if len(truth) else 0.0
    return float(1 - (truth - predicted).var() / variance) if variance > 0 else None


def _correlation(a: Floats, b: Floats) -> float | None:
    """Return Pearson's correlation; None if ``a`` or ``b`` is constant."""
    if len(a) < 2 or a.std() < 1e-9 or b.std() < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _fit(columns: Floats, truth: Floats) -> Floats:
    """Return the least-squares fit of ``truth`` [n] by ``columns`` [n, k] and a constant."""
    design = np.column_stack([columns, np.ones(len(truth))])
    return design @ np.linalg.lstsq(design, truth, rcond=None)[0]


def _within(values: Floats, table: dict[str, Floats]) -> Floats:
    """Subtract from each value the mean over its image."""
    _, group = np.unique(table["image"], return_inverse=True)
    means = np.bincount(group, values) / np.maximum(np.bincount(group), 1)
    return values - means[group]


def _by_position(value: Floats, table: dict[str, Floats]) -> list[dict[str, float]]:
    out = []
    for position in np.unique(table["position"]):
        here = table["position"] == position
        means = {"value": value[here].mean(), "return": table["value_return"][here].mean()}
        out.append(
            {"position": int(position), "num": int(here.sum()), **{k: float(v) for k, v in means.items()}}
        )
    return out
