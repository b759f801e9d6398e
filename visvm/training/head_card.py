"""The model card of a head."""

from __future__ import annotations

from typing import Any

from visvm.training.cards import front_matter
from visvm.training.config import CardOptions
from visvm.value.head import HeadConfig


def head_card(policy: str, options: CardOptions, head: HeadConfig, metrics: dict[str, Any]) -> str:
    """Return the README.md of a head's directory: what it reads and gives, data, fit, limits."""
    held_out = metrics["held_out"] or {}
    rows = "\n".join(
        f"| {reads} | {fit['reward_explained']:.3f} | {fit['value_correlation']:.3f} |"
        for reads, fit in held_out.items()
        if isinstance(fit, dict)
    )
    tags = ("vision-value-model", "reward-model", "value-head")
    head_matter = front_matter(policy, options, tags=tags, library="visvm")
    return f"""{head_matter}# Value head on the states of `{head.policy}`

Linear weights on the hidden state behind a sentence give its reward r, the discounted rewards F of the
sentences after it and their discounted number M (gamma = {head.gamma}). Fitted in closed form to
{metrics["num_sentences"]} sentences of the policy's own rollouts on {metrics["num_images"]} images; rewards
are CLIP cosines of sentence and image. "prefix" reads the state behind the sentence in its caption,
"sentence" the one behind image and sentence alone. It fits the policy with fingerprint `{head.fingerprint}`
only, and is refused with any other.

    visvm caption --images IMAGES --policy {head.policy} --method visvm --value THIS_FOLDER --out OUT

## Held-out images
| reads | share of the reward's variance explained | correlation of V with the return |
|---|---|---|
{rows or "| no images were held out | | |"}

## Limits
It knows the sentences that its policy writes about images like those of its training. Values of different
images are not comparable. Moving the centre moves the length of captions: compare methods at matched length.
"""
