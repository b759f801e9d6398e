"""The fields of a job's config that the formulas of memory and duration read."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable


class TrainingNeeds(Protocol):
    """How much a training worker keeps and does: fields of train-value and finetune."""

    @property
    def policy(self) -> str: ...
    @property
    def num_workers(self) -> int: ...
    @property
    def micro_batch_size(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def bf16(self) -> bool: ...
    @property
    def deepspeed(self) -> dict[str, Any] | str | None: ...
    @property
    def learns(self) -> Literal["values", "captions"]: ...


class WritingNeeds(Protocol):
    """How much an actor writes at a time: fields of generate-triples and caption."""

    @property
    def temperatures(self) -> tuple[float, ...]: ...
    @property
    def max_images(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def cache_mb(self) -> int | None: ...


@runtime_checkable
class SearchNeeds(WritingNeeds, Protocol):
    """How a caption is searched: fields of caption."""

    @property
    def method(self) -> str: ...
    @property
    def step_size(self) -> int: ...
    @property
    def samples_per_temperature(self) -> int: ...
