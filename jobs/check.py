"""Check that a policy is computed exactly: its log-probabilities, its value gradients, and what it takes.

  visvm check llava-hf/llava-v1.6-mistral-7b-hf
  visvm check runs/finetune/model --json

Tokens are forced behind two images and two prompts, and their log-probabilities are compared with those of
transformers' own cached `generate`; gradients of packed texts with those of one forward a text. Exits with
1 and the reason where a model is refused. Images of 640 x 480 and rows of 512 tokens are counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from jobs.runner.command import Refused, run
from visvm.config import Config, ModelName, Options

ROW_TOKENS = 512
SHAPE = (640, 480)
MOST_GRADIENT = 1e-2  # in float32; rounding stays below 1e-3, a wrong mask or position exceeds 0.1


class CheckConfig(Config):
    """Configuration of check: the policy, and where and how it is loaded."""

    policy: ModelName = Field(
        description='"world", local directory or hub id of a VLM', json_schema_extra={"positional": True}
    )
    as_json: bool = Field(False, alias="json", description="print one JSON object instead of the table")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on the CPU, bfloat16 on a GPU"
    )
    template: Options = Field({}, description="options of the chat template, e.g. enable_thinking=false")


def work(config: CheckConfig) -> dict[str, Any]:
    """Run the checks and print what they found.

    Raises:
        Refused: the policy is not computed exactly.
    """
    import transformers

    from visvm.families import UnsupportedModel

    transformers.logging.disable_progress_bar()
    try:
        facts = check(config)
    except UnsupportedModel as error:
        facts = {"policy": config.policy, "exact": False, "reason": str(error)}
    print(json.dumps(facts) if config.as_json else table(facts), flush=True)
    if not facts["exact"]:
        raise Refused(facts["reason"])
    return facts


def check(config: CheckConfig) -> dict[str, Any]:
    """Return what is known of the policy after all checks.

    Raises:
        ValueError: it cannot be found.
        UnsupportedModel: it is refused before anything is computed.
    """
    from visvm.engine import selftest
    from visvm.families.loading import load_model
    from visvm.models import check_policy, loading_of
    from visvm.policy import SharedPrefixPolicy

    name, loading = check_policy(config.policy), loading_of(config.device, config.dtype)
    model, processor = load_model(name, **loading)
    policy = SharedPrefixPolicy(model, processor, template=config.template)
    facts: dict[str, Any] = {
        "policy": config.policy,
        "model_type": model.config.model_type,
        "classes": f"{type(model).__name__}, {type(processor).__name__}",
        **loading,
        "exact": True,
        "reason": None,
    }
    try:
        found = selftest.check(model.eval(), policy.engine, policy.decoder.lm_head)
    except Exception as error:  # whatever a model of a new kind does inside
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return facts | {"exact": False, "reason": reason}
    facts |= {"largest_difference": found.largest, "median_difference": found.median}
    facts |= _memory(policy) | {"value_gradient_difference": _gradients(model, processor)}
    if loading["dtype"] == "float32" and facts["value_gradient_difference"] > MOST_GRADIENT:
        difference = facts["value_gradient_difference"]
        return facts | {
            "exact": False,
            "reason": f"value gradients differ by {difference:.3g} of their largest",
        }
    return facts


def _memory(policy: Any) -> dict[str, int]:
    """Return the tokens and bytes of an image and of a row."""
    tokens = policy.family.preprocess([_image(SHAPE)])[0]["input_ids"].shape[1]
    token, state = policy.engine.images.token_bytes, policy.engine.images.state_bytes
    return {
        "image_tokens": tokens,
        "image_bytes": tokens * token + state,
        "row_bytes": ROW_TOKENS * token + state,
    }


def _gradients(model: Any, processor: Any) -> float:
    import torch

    from visvm.value.gradient_check import gradient_difference
    from visvm.value.model import VisionValueConfig, VisionValueModel

    value = VisionValueModel(VisionValueConfig(base_config=model.config.to_dict()), base=model.model)
    torch.manual_seed(0)
    torch.nn.init.normal_(value.head.weight, std=0.02)
    value.head.to(model.device)
    return gradient_difference(value.with_processor(processor).eval(), _image((96, 64)))


def _image(shape: tuple[int, int]) -> Any:
    import numpy as np
    from PIL import Image

    from visvm.records import DecodedImage

    pixels = np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
    return DecodedImage("", "", "", Image.fromarray(pixels))


def table(facts: dict[str, Any]) -> str:
    """Return the facts as a table in plain text."""
    rows = [(key.replace("_", " "), _shown(key, value)) for key, value in facts.items() if value is not None]
    return "\n".join(f"{key:26} {value}" for key, value in rows)


def _shown(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / 2**20:.4g} MiB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return the exit status."""
    return run(CheckConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
