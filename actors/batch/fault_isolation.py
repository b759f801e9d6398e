"""Whole batches through a stage, each exactly once, whatever kills the process it runs in."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.batch.rows import is_gpu_lost
from actors.batch.stage_metrics import StageMetrics

WHOLE_TRIES = 2  # a node may go at any time, so the first death says nothing of the batch
ALONE_TRIES = 2
STARTS = 10  # of an actor in a row, while nothing is finished


class AttemptLog:
    """What was begun and not ended, and how often: the memory of processes that die."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._again = 0

    def start(self, stage: str) -> int:
        """Note that an actor of the stage starts; how many did since it last finished something."""
        self._starts[stage] += 1
        return self._starts[stage]

    def begin(self, key: str) -> int:
        """Note that a piece of work is begun; for the how manieth time."""
        self._begun[key] += 1
        self._again += self._begun[key] > 1
        return self._begun[key]

    def end(self, stage: str, key: str) -> None:
        """Note that it is done."""
        self._begun.pop(key, None)
        self._starts.pop(stage, None)

    def num_again(self) -> int:
        """How often work was begun again, since the process that had begun it died."""
        return self._again


def start_attempt_log() -> Any:
    """A ledger beside the driver, which outlives every other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(AttemptLog).options(**options).remote()


class FaultIsolatingActor:
    """Runs a stage's actor on batches (packed, UNITS or what a stage gives), and finds rows that kill it.

    A batch begun again runs whole once more. From the third time its rows run alone, and a row that was
    begun alone twice and never ended becomes an error: so every row ends, and so do restarts.
    """

    def __init__(self, actor: type, arguments: dict[str, Any], *, attempts: Any, num_actors: int) -> None:
        """``arguments`` are the actor's keywords; ``num_actors`` its stage has at most.

        Raises:
            RuntimeError: actors of this stage die before they finish anything, again and again.
        """
        self.stage, self.attempts = actor.__name__.lower(), attempts
        if ray.get(attempts.start.remote(self.stage)) > STARTS * num_actors:
            raise RuntimeError(f"{self.stage}: actors died {STARTS} times in a row and finished nothing")
        self.actor, self.metrics = actor(**arguments), StageMetrics(self.stage)

    def __call__(self, packed: pa.Table) -> pa.Table:
        batch = unpack(packed)
        key = self._key("batch", *batch["id"].to_pylist())
        if self._begin(key) <= WHOLE_TRIES:
            done = self._run(batch)
        else:
            done = pa.concat_tables(self._alone(batch.slice(i, 1)) for i in range(batch.num_rows))
        self._end(key)
        self.metrics.add(batch, done, self.actor)
        return pack(done)

    def _alone(self, row: pa.Table) -> pa.Table:
        key = self._key("row", row["id"][0].as_py())
        if row["error"].null_count and self._begin(key) > ALONE_TRIES:
            row = _failed(row, self.stage, f"killed its actor {ALONE_TRIES} times when it was alone")
        done = self._run(row)
        self._end(key)
        return done

    def _run(self, batch: pa.Table) -> pa.Table:
        try:
            return self.actor(batch)
        except RuntimeError as error:
            if is_gpu_lost(error):
                os._exit(1)  # the next process has it again
            raise

    def _begin(self, key: str) -> int:
        return ray.get(self.attempts.begin.remote(key))

    def _end(self, key: str) -> None:
        ray.get(self.attempts.end.remote(self.stage, key))

    def _key(self, *parts: str) -> str:
        return hashlib.sha256("\0".join((self.stage, *parts)).encode()).hexdigest()


def pack(batch: pa.Table) -> pa.Table:
    """A batch as one row, which Ray Data neither cuts nor joins."""
    rows = batch.to_struct_array().combine_chunks()
    return pa.table({"batch": pa.ListArray.from_arrays([0, len(rows)], rows)})


def unpack(packed: pa.Table) -> pa.Table:
    """The batch of one row."""
    assert packed.num_rows == 1, packed.num_rows
    return pa.Table.from_struct_array(packed["batch"].combine_chunks().flatten())


def _failed(row: pa.Table, stage: str, error: str) -> pa.Table:
    for name, value in (("stage", stage), ("error", error)):
        row = row.set_column(row.schema.get_field_index(name), name, pa.array([value]))
    return row
