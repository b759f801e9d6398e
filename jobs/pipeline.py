"""Units through actors to parquet files: what generate-triples and caption share.

Work goes by whole batches, always the same ones, and an actor keeps nothing from one to the next. The
driver alone writes, whole batches as they are done, each file in one step. So whatever is killed, the run
that goes on gives every row once, to the bit the one of an undisturbed run (but for the time it took);
the order of the files' rows follows from the time alone.

What this costs: all rows pass through one process (thousands a second: docs/scaling.md), and it holds
the units, about 2 KB each. A job of many million pictures is many jobs, by ``--images``.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
import ray
from pydantic import Field, field_validator, model_validator
from ray.data import ActorPoolStrategy

from actors.guard import Guard, open_ledger, pack, unpack
from actors.rows import UNITS
from jobs import sources
from jobs.places import SharedPaths
from jobs.preflight import Demand, check
from jobs.sizes import actor_bytes
from jobs.tables import FILE_SECONDS, Files
from visvm import storage
from visvm.prompts import DETAIL_PROMPTS, prompt_for
from visvm.records import ERRORS

SECONDS_BETWEEN_REPORTS = 5.0
logger = logging.getLogger(__name__)


class PipelineConfig(SharedPaths):
    """The fields of every job that takes pictures through a policy."""

    OPERATIONAL = SharedPaths.OPERATIONAL | {
        *("min_actors", "max_actors", "num_gpus", "max_error_share", "commit_seconds"),
    }

    images: str = Field(description="folder of pictures, parquet file or COCO annotation .json")
    out: str = Field(description="run folder")
    image_root: str | None = Field(
        None, description="folder of a COCO json's pictures (else found beside it)"
    )
    sample: int | None = Field(None, ge=1, description="use so many of the pictures, drawn by --seed")
    shard: str = Field(
        "0/1",
        pattern=r"^\d+/[1-9]\d*$",
        description="I/N: the I-th of N equal parts of the pictures, by their ids; a job each",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of every draw")
    prompts: str = Field("one", description='"one" drawn for each picture, "all" nine, or a prompt itself')
    policy: str = Field("world", description='"world", local directory or hub id of the VLM')
    reward: str = Field(
        "auto",
        description='"auto" (the one the paper pairs with the policy), "world", local directory, hub id or'
        " ARCHITECTURE/WEIGHTS of open_clip",
    )
    max_new_tokens: int = Field(512, ge=1, description="tokens a caption at most")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus of all sampling")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto, cpu or cuda")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on the CPU, bfloat16 on a GPU"
    )
    batch_size: int = Field(64, ge=1, description="pictures an actor takes at a time")
    max_pictures: int = Field(64, ge=1, description="pictures an actor has in flight")
    max_rows: int = Field(192, ge=1, description="candidates an actor writes at a time")
    cache_mb: int | None = Field(
        None, ge=1, description="MiB for the keys and values of both; what has no room waits"
    )
    min_actors: int = Field(1, ge=1, description="policy actors at first")
    max_actors: int = Field(1, ge=1, description="policy actors at most")
    num_gpus: float = Field(0.8, gt=0, description="GPUs of a policy actor, if the device is a GPU")
    patience: float = Field(
        3600, gt=0, description="seconds without any batch done after which the job fails"
    )
    max_error_share: float = Field(0.5, ge=0, le=1, description="fail above this share of unusable pictures")
    commit_seconds: float = Field(FILE_SECONDS, ge=0, description="rows wait so long for their file at most")

    @field_validator("prompts")
    @classmethod
    def _is_prompt(cls, value: str) -> str:
        if value not in ("one", "all") and " " not in value.strip():
            raise ValueError('expected "one", "all" or the text of a prompt')
        return value

    @model_validator(mode="after")
    def _is_range(self) -> Self:
        if self.min_actors > self.max_actors:
            raise ValueError(f"min_actors = {self.min_actors} is more than max_actors = {self.max_actors}")
        return self

    @field_validator("shard")
    @classmethod
    def _is_part(cls, value: str) -> str:
        part, num = map(int, value.split("/"))
        if part >= num:
            raise ValueError(f"expected I/N with I from 0 to N - 1 = {num - 1}")
        return value

    @property
    def policy_options(self) -> dict[str, Any]:
        """How the policy samples, and how much it does at a time."""
        names = ("max_new_tokens", "top_p", "max_pictures", "max_rows", "cache_mb")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Stage:
    """One actor pool of a pipeline; ``arguments`` are the actor's keywords: names and options, no weights."""

    actor: type
    arguments: dict[str, Any]
    min_actors: int = 1
    max_actors: int = 1
    num_cpus: float = 1
    num_gpus: float = 0

    @property
    def demand(self) -> Demand:
        """What it asks of a cluster."""
        return Demand(
            self.actor.__name__,
            self.min_actors,
            self.max_actors,
            cpus=self.num_cpus,
            gpus=self.num_gpus,
            parts=actor_bytes(self.arguments),
        )

    def apply(self, dataset: ray.data.Dataset, ledger: Any) -> ray.data.Dataset:
        """The dataset of packed batches with this stage behind it."""
        guard = type(self.actor.__name__, (Guard,), {})  # the name that Ray's dashboard shows
        return dataset.map_batches(
            guard,
            fn_constructor_args=(self.actor, self.arguments),
            fn_constructor_kwargs={"ledger": ledger, "num_actors": self.max_actors},
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=self.min_actors, max_size=self.max_actors),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
        )


def make_units(config: PipelineConfig) -> pa.Table:
    """The UNITS of a job: each drawn picture with its prompts.

    Raises:
        ValueError: the source has no pictures, too few, or is malformed.
    """
    drawn = sources.draw(
        sources.find(config.images, image_root=config.image_root), config.sample, config.seed
    )
    rows = [
        {"id": unit_id(image_id, prompt), "image_id": image_id, "uri": uri, "prompt": prompt}
        for image_id, uri in drawn
        if sources.in_shard(image_id, config.shard)
        for prompt in _prompts(config, image_id)
    ]
    return pa.Table.from_pylist(rows, schema=UNITS)


def unit_id(image_id: str, prompt: str) -> str:
    """The stable id of an (image, prompt)."""
    return f"{image_id}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"


def write_units(
    units: pa.Table, folder: str | Path, schema: pa.Schema, *, stages: Sequence[Stage], config: PipelineConfig
) -> None:
    """Take the units that ``folder`` lacks through the stages; write good rows there, others to errors/.

    Raises:
        RuntimeError: more than ``max_error_share`` of the units failed.
    """
    check([stage.demand for stage in stages])
    errors = storage.join(storage.parent(str(folder)), "errors")
    storage.delete(errors)  # what failed in an earlier run is tried again
    good = Files(folder, schema, seconds=config.commit_seconds)
    bad = Files(errors, ERRORS, seconds=config.commit_seconds)
    batches = _batches(units, good.column("id"), config.batch_size)
    num_todo = sum(batch.num_rows for batch in batches)
    progress = Progress(PurePath(folder).name, total=units.num_rows, done=units.num_rows - num_todo)
    for table in _run(batches, stages, config.patience):
        failed = pc.is_valid(table["error"])
        good.add(table.filter(pc.invert(failed)).select(schema.names))
        bad.add(_errors(table.filter(failed)))
        progress.add(table.num_rows, num_errors=pc.sum(failed).as_py() or 0)
        if progress.num_errors > config.max_error_share * units.num_rows:
            break
    good.flush()
    bad.flush()
    if progress.num_errors > config.max_error_share * units.num_rows:
        raise RuntimeError(
            f"{progress.num_errors} of {units.num_rows} units failed, more than max_error_share ="
            f" {config.max_error_share}; the reasons are in {errors}"
        )


class Progress:
    """Says every few seconds how far a job is, and how long the rest will take."""

    def __init__(self, name: str, *, total: int, done: int) -> None:
        self.name, self.total, self.done, self.skipped = name, total, done, done
        self.num_errors = 0
        self.started = self.reported = time.monotonic()
        if done:
            logger.info("%s: going on after %d of %d", name, done, total)

    def add(self, num: int, *, num_errors: int) -> None:
        """Count ``num`` more units, ``num_errors`` of them failed."""
        self.done += num
        self.num_errors += num_errors
        now = time.monotonic()
        if now - self.reported > SECONDS_BETWEEN_REPORTS or self.done == self.total:
            self.reported = now
            rate = (self.done - self.skipped) / (now - self.started)
            rest = (self.total - self.done) / rate
            message = "%s: %d of %d, %d failed, %.2g a second, %.0f s left"
            logger.info(message, self.name, self.done, self.total, self.num_errors, rate, rest)


def _batches(units: pa.Table, done: pa.ChunkedArray, size: int) -> list[pa.Table]:
    """The batches of a run without a break, less what is done: whole ones, and those whose rows failed."""
    whole = [units.slice(start, size) for start in range(0, units.num_rows, size)]
    left = [batch.filter(pc.invert(pc.is_in(batch["id"], done))) for batch in whole]
    return [batch for batch in left if batch.num_rows]


def _run(batches: Sequence[pa.Table], stages: Sequence[Stage], patience: float) -> Iterator[pa.Table]:
    """What the stages make of each batch, as it comes."""
    if not batches:
        return
    ledger = open_ledger()
    dataset: ray.data.Dataset = ray.data.from_arrow([pack(batch) for batch in batches])
    dataset.context.execution_no_progress_timeout_s = patience
    for stage in stages:
        dataset = stage.apply(dataset, ledger)
    for packed in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield unpack(packed)
    if num_again := ray.get(ledger.num_again.remote()):
        logger.info("%d times work was begun again, after the process that did it had died", num_again)


def _errors(failed: pa.Table) -> pa.Table:
    columns = {"uri": "uri", "image_id": "image_id", "stage": "stage", "reason": "error"}
    return pa.table([failed[columns[name]] for name in ERRORS.names], schema=ERRORS)


def _prompts(config: PipelineConfig, image_id: str) -> Sequence[str]:
    if config.prompts == "all":
        return DETAIL_PROMPTS
    return [prompt_for(image_id, config.seed) if config.prompts == "one" else config.prompts]
