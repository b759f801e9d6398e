"""Describe one or a few images, in this process: each sentence is printed as it is chosen.

  visvm describe photo.jpg --policy llava-hf/llava-v1.6-mistral-7b-hf --method greedy
  visvm describe drawing.png --trace
  visvm describe a.png b.png --json

For many images use `visvm caption`, which needs Ray and resumes.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from jobs.runner.command import run
from visvm.config import Options
from visvm.prompts import DETAIL_PROMPTS
from visvm.search import METHODS, SearchConfig
from visvm.server_policy.names import ServedPolicy

if TYPE_CHECKING:
    from rich.console import Console

    from visvm.captioner import Captioner, SentenceStream

POLICY_OPTIONS = ("max_new_tokens", "top_p", "device", "dtype", "centre", "template")


class DescribeConfig(SearchConfig, ServedPolicy):
    """Configuration of describe: images, models, what to print."""

    images: tuple[str, ...] = Field(
        min_length=1,
        description="image files, data: URLs or s3:// URIs",
        json_schema_extra={"positional": True},
    )
    method: str | None = Field(None, description=f"{', '.join(METHODS)} (default: visvm, else greedy)")
    search: str | None = Field(None, description="a search of your own, MODULE:NAME, instead of --method")
    policy: str = Field("world", description='"world", directory, hub id or http://HOST/v1')
    value: str | None = Field(None, description="value model: directory or hub id (default: the world's)")
    reward: str = Field("auto", description='"auto", "world", directory, hub id or ARCHITECTURE/WEIGHTS')
    scorer: str | None = Field(None, description="a scorer of your own, MODULE:NAME")
    prompt: str = Field(DETAIL_PROMPTS[0], min_length=1, description="what to ask the policy")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every draw")
    trace: bool = Field(False, description="print every candidate, its value and the choice as a tree")
    as_json: bool = Field(False, alias="json", description="print one JSON object per image instead")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of all models")
    max_new_tokens: int = Field(512, ge=1, description="tokens per caption at most")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of all sampling")
    template: Options = Field({}, description="options of the chat template, e.g. enable_thinking=false")
    centre: float | None = Field(  # type: ignore[assignment]
        None, description="reward at which a sentence is worth nothing (default: as trained)"
    )

    @model_validator(mode="after")
    def _one_search(self) -> DescribeConfig:
        if self.search and self.method:
            raise ValueError("give --method or --search, not both")
        return self


def work(config: DescribeConfig) -> dict[str, Any]:
    """Describe the images one after another; an image that cannot be used stops the rest."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    captioner = _load(config)
    options = {name: getattr(config, name) for name in SearchConfig.model_fields if name != "centre"}
    for image in config.images:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            stream = captioner.stream(
                image, _method(config), prompt=config.prompt, seed=config.seed, **options
            )
        for warning in caught:
            print(f"note: {warning.message}", file=sys.stderr)
        _print(console, config, image, stream)
    return {}


def _load(config: DescribeConfig) -> Captioner:
    import transformers

    import visvm
    from visvm.plugins import load_scorer

    transformers.logging.disable_progress_bar()
    scorer = load_scorer(config.scorer) if config.scorer else None
    options = {name: getattr(config, name) for name in POLICY_OPTIONS}
    options |= {} if config.policy_seeds else {"seeds": False}
    return visvm.load(config.policy, config.value, reward=config.reward, scorer=scorer, **options)


def _method(config: DescribeConfig) -> str:
    """Return the method asked for; else the best one that the models given allow."""
    from visvm.models import default_value

    can_guide = config.value or config.scorer or default_value(config.policy)
    return config.search or config.method or ("visvm" if can_guide else "greedy")


def _print(console: Console, config: DescribeConfig, image: str, stream: SentenceStream) -> None:
    from visvm.report.terminal import step_tree

    name = image if len(image) < 100 else f"{image[:60]}..."  # a data: URL
    if config.as_json:
        for _ in stream:
            pass
        print(json.dumps({"image": name, **_result(stream)}, ensure_ascii=False), flush=True)
        return
    if len(config.images) > 1:
        console.print(f"[bold]{name}[/bold]" if name.isascii() else name)
    for number, one in enumerate(stream, start=1):
        if config.trace and one.trace is not None:
            console.print(step_tree(number, one.trace.row()))
        else:
            console.print(one.text.strip(), markup=False)


def _result(stream: SentenceStream) -> dict[str, Any]:
    caption = stream.caption
    assert caption is not None
    return {
        "prompt": caption.request.prompt,
        "method": caption.method,
        "caption": caption.text,
        "sentences": caption.sentences,
        "values": caption.values,
        "finish_reason": caption.finish_reason,
        "trace": [step.row() for step in caption.trace],
        "cost": vars(caption.cost),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return the exit status."""
    return run(DescribeConfig, work, argv, doc=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
