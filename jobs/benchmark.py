"""Measure what the shared prefix saves: the published procedure, batching alone, ours and greedy.

Greedy decoding is there twice: ours behind the stored image, and plain `generate`.

    visvm benchmark --model tiny                                        seconds; shows the table
    visvm benchmark --model bench --json bench.json                     half an hour on two cores
    visvm benchmark --peer http://127.0.0.1:8000/v1 --peer-model bench   beside vLLM: docs/vllm.md
    visvm benchmark --model 7b --device cuda --dtype bfloat16 --json 7b.json

Each program runs in a process of its own, in turn with the others of its part, on random weights. On
the CPU the time is the process's own CPU time (of a peer on this machine, that of its server's processes),
so neighbours disturb it little; on a GPU it is wall time. Ratios are medians over the repeats of the
paired ratios. It uses no Ray.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from jobs.runner.command import run
from jobs.runner.run_folder import write_json
from visvm.benchmark.parts import PEER, PROGRAMS, Part, Setup
from visvm.benchmark.sizes import SIZES
from visvm.benchmark.workload import Workload
from visvm.config import Config

Measure = dict[str, float]
_program: Callable[[], int]  # this process's own, set by _start
_clock: Callable[[], float]


class BenchmarkConfig(Config):
    """What is measured, on which model and device."""

    model: str = Field("bench", description=", ".join(SIZES))
    parts: tuple[Part, ...] = Field(tuple(PROGRAMS), min_length=1, description=", ".join(PROGRAMS))
    lengths: Literal["forced", "natural"] = Field(
        "forced", description="forced: sentences of equal length; natural: spread around it"
    )
    num_sentences: int = Field(8, ge=1, description="sentences a caption")
    sentence_length: int = Field(25, ge=2, description="tokens a sentence, on average")
    response_length: int = Field(100, ge=1, description="tokens a response of the rollouts")
    num_images: int = Field(1, ge=1, description="images of the search; ours has them in flight together")
    repeats: int = Field(3, ge=1, description="measured runs of each program, after one to warm up")
    threads: int = Field(1, ge=1, description="threads of a program on the CPU")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cpu or cuda")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="float32 or bfloat16")
    peer: str | None = Field(
        None, description="http://HOST/v1 of a vLLM that serves --save-model's: beside us"
    )
    peer_model: str | None = Field(None, description="its name there")
    save_model: str | None = Field(
        None, description="write the model that is measured to this folder, no more"
    )
    json_file: str | None = Field(None, alias="json", description="file for the figures")

    @field_validator("model")
    @classmethod
    def _is_size(cls, value: str) -> str:
        if value not in SIZES:
            raise ValueError(f"expected one of {', '.join(SIZES)}")
        return value

    @property
    def setup(self) -> Setup:
        """Return what every program is given."""
        workload = Workload(
            num_sentences=self.num_sentences,
            sentence_length=self.sentence_length,
            lengths=self.lengths,
            response_length=self.response_length,
            num_images=self.num_images,
        )
        peer = f"{self.peer}#{self.peer_model}" if self.peer else None
        return Setup(self.model, workload, self.device, self.dtype, peer)

    @model_validator(mode="after")
    def _names_a_model(self) -> Self:
        if self.peer and not self.peer_model:
            raise ValueError("peer needs peer_model: the name of the model there")
        return self


def work(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure every part; print the table and write the figures."""
    import torch

    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = cuda: torch finds no GPU here")
    measured: dict[str, dict[str, list[Measure]]] = {}
    result: dict[str, Any] = {}
    if config.save_model:
        return save(config.save_model, config.setup)
    for part in tuple(PEER) if config.peer else config.parts:
        measured[part] = measure(part, config)
        result = summary(measured) | {"config": config.model_dump(mode="json"), "runs": measured}
        if config.json_file:  # after each part: the next one may take long
            write_json(Path(config.json_file), result)
    print(table(measured))
    return result


def measure(part: Part, config: BenchmarkConfig) -> dict[str, list[Measure]]:
    """Run the programs of a part in turn and return the runs of each."""
    from tqdm import tqdm

    names = {**PROGRAMS, **PEER}[part]
    context = get_context("spawn")
    runs: dict[str, list[Measure]] = {name: [] for name in names}
    with ExitStack() as stack:
        pools = {}
        for name in names:
            given = (part, name, config.setup, config.threads)
            pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start, initargs=given)
            pools[name] = stack.enter_context(pool)
        rounds = [(i, name) for i in range(-1, config.repeats) for name in names]
        for i, name in tqdm(rounds, desc=part, disable=None):
            one = pools[name].submit(_measure, config.device).result()
            if i >= 0:  # the first round warms up
                runs[name].append(one)
    return runs


def save(folder: str, setup: Setup) -> dict[str, Any]:
    """Write the measured policy and its processor; weights have the hub's names, as vLLM expects."""
    import torch

    from visvm.benchmark.random_models import build

    model, processor = build(setup.size, device="cpu", dtype=getattr(torch, setup.dtype))
    ours, hub = "vision_tower.", "vision_tower.vision_model."
    model.save_pretrained(
        folder, state_dict={key.replace(ours, hub, 1): one for key, one in model.state_dict().items()}
    )
    processor.save_pretrained(folder)
    return {"model": folder}


def _start(part: Part, name: str, setup: Setup, threads: int) -> None:
    global _program, _clock
    import torch

    from visvm.benchmark.programs import load

    torch.set_num_threads(threads)
    _program = load(part, name, setup)
    _clock = time.perf_counter if setup.device == "cuda" else time.process_time
    if name == "peer":
        from visvm.benchmark import peer

        _clock = peer.clock(setup.peer or "")


def _measure(device: str) -> Measure:
    """Run once; return the seconds, the tokens and the peak memory (MiB) of this process so far."""
    import torch

    is_gpu = device == "cuda"
    if is_gpu:
        torch.cuda.synchronize()
    start = _clock()
    tokens = _program()
    if is_gpu:
        torch.cuda.synchronize()
    seconds = _clock() - start
    kib = torch.cuda.max_memory_allocated() / 1024 if is_gpu else _peak_kib()
    return {"seconds": seconds, "tokens": tokens, "peak_memory_mib": round(kib / 1024, 1)}


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def summary(measured: dict[str, dict[str, list[Measure]]]) -> dict[str, Any]:
    """Return the ratios of each part and the peak memory of each program."""
    result: dict[str, Any] = {"training": {}}
    for part, runs in measured.items():
        ratios = {
            f"{a}_over_{b}": ratio(runs[a], runs[b])
            for a, b in (
                ("published", "ours"),
                ("peer", "ours"),
                ("batched", "ours"),
                ("ours", "greedy"),
                ("ours", "generate"),
            )
            if a in runs and b in runs
        }
        if part.startswith("training-"):
            result["training"][part.removeprefix("training-")] = ratios["published_over_ours"]
        else:
            result[part] = ratios
    result["peak_memory_mib"] = {
        part: {name: max(one["peak_memory_mib"] for one in rows) for name, rows in runs.items()}
        for part, runs in measured.items()
    }
    return result


def ratio(a: Sequence[Measure], b: Sequence[Measure]) -> float:
    """Return the median of the paired ratios of the times."""
    return round(median(x["seconds"] / y["seconds"] for x, y in zip(a, b, strict=True)), 2)


def table(measured: dict[str, dict[str, list[Measure]]]) -> str:
    """Return the figures as a table in plain text."""
    rows = [f"{'part':12} {'program':10} {'seconds':>9} {'to ours':>8} {'tokens':>8} {'peak MiB':>9}"]
    for part, runs in measured.items():
        for name, each in runs.items():
            seconds = median(one["seconds"] for one in each)
            rows.append(
                f"{part:12} {name:10} {seconds:9.2f} {ratio(each, runs['ours']):8.2f}"
                f" {each[0]['tokens']:8.0f} {max(one['peak_memory_mib'] for one in each):9.0f}"
            )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return the exit status."""
    return run(BenchmarkConfig, work, argv, doc=__doc__)


if __name__ == "__main__":
    sys.exit(main())
