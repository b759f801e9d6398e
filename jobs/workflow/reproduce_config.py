"""The options of reproduce, and what stands for a model of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from jobs import answer, caption, generate_triples
from jobs.workflow.loop_config import LEARNED, LoopConfig
from jobs.workflow.stages import check_options
from visvm.config import ModelName, Options, Place
from visvm.models import CLIP, SIGLIP
from visvm.units import check_unit

TABLE_1 = ("greedy", "best_of_30", "prm", "mcts", "visvm", "visvm_second_reward")
TABLE_2 = ("greedy", "best_of_30", "prm", "visvm")
PAPER: dict[str, Any] = {
    "num_train": 9215,
    "num_sft": 9215,
    "num_test": 500,
    "num_step_sizes": 500,
    "step_sizes": (2, 4, 8, 16),
    "probes": (1,),
    "reward": CLIP,
    "second_reward": SIGLIP,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "llava-next-7b": {**PAPER, "policy": "llava-hf/llava-v1.6-mistral-7b-hf"},
    "qwen2-vl-7b": {**PAPER, "policy": "Qwen/Qwen2-VL-7B-Instruct"},
    "world": {
        "num_train": 1500,
        "num_sft": 800,
        "num_test": 500,
        "num_step_sizes": 150,
        "step_sizes": (1, 2, 4, 8),
        "probes": (2, 4, 6),
    },
}
SMALL: dict[str, Any] = {
    "num_train": 300,
    "num_sft": 150,
    "num_test": 100,
    "num_step_sizes": 50,
    "step_sizes": (1, 2, 4),
    "probes": (4,),
}
NEEDED = ("train_images", "test_images", "annotations", "amber", "mmhal_questions", "mmhal_images")


class ReproduceConfig(LoopConfig):
    """What is reproduced, with which models and data; what is not given follows from --model."""

    OPERATIONAL = LoopConfig.OPERATIONAL | {"dry_run", "cluster"}

    model: Literal["llava-next-7b", "qwen2-vl-7b", "world"] = Field(description="whose tables: see above")
    size: Literal["small", "full"] = Field("full", description="world: small, or full")
    methods: tuple[str, ...] = Field(TABLE_1, min_length=1, description="rows of table 1")
    sft: tuple[str, ...] = Field(TABLE_2, description="rows whose captions table 2 fine-tunes on")
    probes: tuple[int, ...] = Field(
        (), description="sentences to probe look-ahead at: this one is chosen, all others are greedy"
    )
    units: tuple[str, ...] = Field(
        ("sentence", "paragraph", "tokens:8"), description="what a step of prm and visvm writes, compared"
    )
    policy: ModelName = Field("world", description="the VLM: directory or hub id")
    reward: ModelName = Field("world", description="the reward")
    second_reward: ModelName | None = Field(
        None, description="the stronger reward (default: SigLIP; in the world one is trained)"
    )
    trained: Options = Field(
        {}, description="value models that are trained already, by row: visvm=DIR; others are trained"
    )
    train_images: Place | None = Field(None, description="COCO's train2017: folder or annotation .json")
    test_images: Place | None = Field(None, description="images to judge on: folder or annotation .json")
    annotations: Place | None = Field(None, description="folder with their instances_ and captions_*.json")
    amber: Place | None = Field(None, description="folder of AMBER's authors, with image/")
    amber_similar: Place | None = Field(None, description="table of visvm data amber-similarity")
    mmhal_questions: Place | None = Field(None, description="MMHal-Bench's response_template.json")
    mmhal_images: Place | None = Field(None, description="folder of its images")
    mmhal_prompt: Place | None = Field(None, description="file with the judge's prompt")
    judge_endpoint: str | None = Field(None, description="endpoint of MMHal-Bench's judge, .../v1")
    judge_model: str | None = Field(None, description="the judge")
    pipeline: dict[str, Any] = Field(
        {}, description="more options of generate-triples, caption and answer: actors, GPUs, memory"
    )
    num_examples: int = Field(8, ge=0, description="test images in the page")
    dry_run: bool = Field(False, description="print the stages, GPUs, hours and disk; run nothing")
    cluster: str | None = Field(None, description="dry run: YAML file of the cluster (default: this machine)")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        own = DEFAULTS.get(str(data.get("model")), {})
        small = SMALL if data.get("model") == "world" and data.get("size") == "small" else {}
        return {**own, **small, **data}

    @model_validator(mode="after")
    def _check(self) -> ReproduceConfig:
        check_options(generate_triples.GenerateConfig, self.pipeline, images="images")
        check_options(caption.CaptionConfig, self.pipeline, images="images")
        check_options(answer.AnswerConfig, self.pipeline, images="images", questions="questions")
        for unit in self.units:
            check_unit(unit)
        if unknown := [row for row in self.trained if row not in LEARNED]:
            raise ValueError(f"trained: {unknown[0]!r} learns nothing; expected {', '.join(LEARNED)}")
        if self.model == "world":
            return self
        needed = (*NEEDED, *(() if self.dry_run else ("mmhal_prompt", "judge_endpoint", "judge_model")))
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise ValueError(
                f"--model {self.model} needs {', '.join(missing)}: give them in --config FILE.yaml"
            )
        return self
