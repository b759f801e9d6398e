"""The model card of a value model."""

from __future__ import annotations

from typing import Any

from visvm.training.cards import front_matter, label
from visvm.training.config import ValueTraining
from visvm.value import VisionValueConfig


def model_card(
    policy: str, training: ValueTraining, model: VisionValueConfig, metrics: dict[str, Any]
) -> str:
    """Return the README.md of a model directory: base model, data, outputs, settings, metrics, limits."""
    trained = training.model_dump(include=set(ValueTraining.model_fields) - {"license", "datasets"})
    settings = "\n".join(f"| {key} | {value} |" for key, value in trained.items())
    head = front_matter(policy, training, tags=("vision-value-model", "reward-model"))
    return f"""{head}# Vision value model of `{label(policy)}`

{_trained(training)} by TD(0) on the policy's own rollouts: {metrics["num_sentences"]} sentences of
{metrics["num_images"]} images, rewarded by the CLIP cosine of sentence and image.
It reads an image and {_STATES[model.state]}. Its first number is the discounted return
(gamma = {model.gamma}) of (reward - {model.reward_centre:.6g}) / {model.reward_scale:.6g}
{_RETURNS[model.predict]}.
Its second is the same of a reward of 1 a sentence: how long the caption still gets.

```python
from visvm.value import ValueScorer
scorer = ValueScorer.from_pretrained("this folder")
```

## Held-out images
{_metrics(metrics.get("held_out"))}

## Training
| setting | value |
|---|---|
{settings}

## Limits
It knows the sentences its policy writes about images like those of its training, at the policy's
temperatures; elsewhere its values mean little. Values of different images are not comparable.
Moving the centre moves the length of captions: compare methods at matched length.
"""


def _trained(training: ValueTraining) -> str:
    lora = training.lora
    return (
        "Every weight was trained" if lora is None else f"LoRA of rank {lora.rank} was trained, and merged,"
    )


_STATES = {"sentence": "one sentence", "prefix": "all sentences of a caption so far"}
_RETURNS = {"value": "from that sentence on", "future": "of what follows"}


def _metrics(held_out: dict[str, Any] | None) -> str:
    if held_out is None:
        return "No images were held out."
    flat = {key: value for key, value in held_out.items() if not isinstance(value, dict | list)}
    flat |= {f"correlation of V with {key}": value for key, value in held_out["correlation"].items()}
    flat |= {f"length only: {key}": value for key, value in held_out["length_only"].items()}
    rows = (f"| {key.replace('_', ' ')} | {_number(value)} |" for key, value in flat.items())
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
