"""What the formulas of memory and duration read of a job's config."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable


class TrainingNeeds(Protocol):
    """The fields of train-value's and finetune's config that say how much a worker holds and does."""

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
    """The fields of generate-triples' and caption's config that say how much an actor writes at a time."""

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
    """The fields of caption's config that say how a caption is searched."""

    @property
    def method(self) -> str: ...
    @property
    def step_size(self) -> int: ...
    @property
    def samples_per_temperature(self) -> int: ...
