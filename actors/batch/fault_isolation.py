"""Run every batch through a stage exactly once, even if the processes that run it are killed."""

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

WHOLE_TRIES = 2  # a node may be lost at any time, so the first death says nothing about the batch
ALONE_TRIES = 2
STARTS = 10  # of an actor in a row without finishing anything


class AttemptLog:
    """Counts how often work was begun and did not end; it survives the processes that do the work."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._starts: Counter[str] = Counter()
        self._again = 0

    def start(self, stage: str) -> int:
        """Record that an actor of a stage starts; return how many did since it last finished anything."""
        self._starts[stage] += 1
        return self._starts[stage]

    def begin(self, key: str) -> int:
        """Record that a piece of work is begun; return how often it has been."""
        self._begun[key] += 1
        self._again += self._begun[key] > 1
        return self._begun[key]

    def end(self, stage: str, key: str) -> None:
        """Record that a piece of work is done."""
        self._begun.pop(key, None)
        self._starts.pop(stage, None)

    def num_again(self) -> int:
        """Return how often work was begun again because the process that had begun it died."""
        return self._again


def start_attempt_log() -> Any:
    """Return the handle of an AttemptLog on the driver's node, which outlives every other node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(AttemptLog).options(**options).remote()


class FaultIsolatingActor:
    """Runs a stage's actor on packed batches, and isolates rows that kill the process.

    A batch whose process died runs whole once more. From the third attempt on, its rows run one by one, and
    a row that killed its process twice alone becomes an error. So every row ends, and so do restarts.
    """

    def __init__(self, actor: type, arguments: dict[str, Any], *, attempts: Any, num_actors: int) -> None:
        """Make the actor with the keywords ``arguments``; its stage has at most ``num_actors``.

        Raises:
            RuntimeError: actors of this stage have died repeatedly without finishing anything.
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
                os._exit(1)  # the batch goes to the next process
            raise

    def _begin(self, key: str) -> int:
        return ray.get(self.attempts.begin.remote(key))

    def _end(self, key: str) -> None:
        ray.get(self.attempts.end.remote(self.stage, key))

    def _key(self, *parts: str) -> str:
        return hashlib.sha256("\0".join((self.stage, *parts)).encode()).hexdigest()


def pack(batch: pa.Table) -> pa.Table:
    """Return a batch as a table of one row, which Ray Data neither splits nor merges."""
    rows = batch.to_struct_array().combine_chunks()
    return pa.table({"batch": pa.ListArray.from_arrays([0, len(rows)], rows)})


def unpack(packed: pa.Table) -> pa.Table:
    """Return the batch that ``pack`` made one row of."""
    assert packed.num_rows == 1, packed.num_rows
    return pa.Table.from_struct_array(packed["batch"].combine_chunks().flatten())


def _failed(row: pa.Table, stage: str, error: str) -> pa.Table:
    for name, value in (("stage", stage), ("error", error)):
        row = row.set_column(row.schema.get_field_index(name), name, pa.array([value]))
    return row
