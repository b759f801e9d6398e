"""Conformal risk control: the least threshold on rewards that keeps hallucination below a promised level.

Sentences whose reward is below tau are dropped. With n images, a loss L(tau) in [0, 1] that never rises with
tau, and its mean R(tau), take the least tau for which n / (n + 1) * R(tau) + 1 / (n + 1) <= alpha. Then the
expected loss on a new image is at most alpha, if it comes from where the n come from (exchangeable images;
Angelopoulos et al. 2022, arXiv 2208.02814). The expectation is over the n images as well: for one draw of
them the risk may lie above alpha by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from visvm.metrics.chair import Variant, chair
from visvm.metrics.coco import Truth, image_key

Risk = Literal["chair_s", "chair_i"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class JudgedCaption:
    """The sentences of a caption: rewards, named objects, and those of them that are not in the image."""

    image: str
    rewards: np.ndarray
    named: np.ndarray
    false: np.ndarray

    def loss(self, taus: np.ndarray, risk: Risk) -> np.ndarray:
        """Return the loss at each of the ascending ``taus``: [taus], never rising.

        chair_s: whether an object is hallucinated. chair_i: the share of the named objects that are, or the
        largest such share at any higher tau, since dropping a true sentence raises the share.
        """
        kept = self.rewards[None, :] >= taus[:, None]
        false = kept @ self.false
        if risk == "chair_s":
            return (false > 0).astype(float)
        share = false / np.maximum(kept @ self.named, 1)
        return np.maximum.accumulate(share[::-1])[::-1]


def judge(rows: Sequence[Row], truth: Truth, *, variant: Variant = "original") -> list[JudgedCaption]:
    """Return the captions' sentences with what they name; rows have image_id, sentences and values.

    Raises:
        ValueError: a caption lacks a value for each of its sentences.
    """
    judged = []
    for row in rows:
        sentences, rewards = row["sentences"] or (), row["values"] or ()
        if len(sentences) != len(rewards):
            raise ValueError(
                f"the caption of image {row['image_id']} has {len(rewards)} rewards for {len(sentences)}"
                " sentences: write captions by --method filter, or with --drop-below"
            )
        key = image_key(row["image_id"])
        found = [chair(text, truth[key], variant=variant) for text in sentences]
        counts = [[len(one.objects) for one in found], [len(one.hallucinated) for one in found]]
        named, false = np.array(counts, dtype=float).reshape(2, -1)
        judged.append(JudgedCaption(key, np.array(rewards, dtype=float), named, false))
    return judged


def losses(captions: Sequence[JudgedCaption], taus: np.ndarray, risk: Risk) -> np.ndarray:
    """Return the mean loss of each image's captions at ascending ``taus``: [images, taus]."""
    by_image: dict[str, list[np.ndarray]] = {}
    for one in captions:
        by_image.setdefault(one.image, []).append(one.loss(taus, risk))
    return np.stack([np.mean(own, axis=0) for own in by_image.values()])


def thresholds(captions: Sequence[JudgedCaption]) -> np.ndarray:
    """Return the thresholds that make a difference, ascending: every reward, and one above all of them."""
    rewards = np.unique(np.concatenate([one.rewards for one in captions]))
    return np.append(rewards, np.nextafter(rewards[-1], np.inf)) if len(rewards) else np.zeros(1)


def calibrate(captions: Sequence[JudgedCaption], *, risk: Risk, alpha: float) -> dict[str, Any]:
    """Return tau, and what is known of it: n images, their empirical risk, the share of sentences kept.

    Raises:
        ValueError: there are too few images for ``alpha``, whatever is dropped.
    """
    taus = thresholds(captions)
    table = losses(captions, taus, risk)
    num = len(table)
    bound = num / (num + 1) * table.mean(axis=0) + 1 / (num + 1)
    if not (bound <= alpha).any():
        raise ValueError(
            f"alpha = {alpha}: {num} images cannot promise that; at least {int(np.ceil(1 / alpha)) - 1} are"
            " needed"
        )
    first = int(np.argmax(bound <= alpha))
    rewards = np.concatenate([one.rewards for one in captions])
    return {
        "tau": float(taus[first]),
        "num_images": num,
        "empirical_risk": float(table[:, first].mean()),
        "kept": float((rewards >= taus[first]).mean()) if len(rewards) else 0.0,
    }
