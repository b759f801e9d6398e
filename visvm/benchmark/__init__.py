"""What the shared prefix saves: the published procedure, batching alone, ours and greedy, side by side."""

from visvm.benchmark.programs import PROGRAMS, Part, Setup, load
from visvm.benchmark.sizes import SIZES
from visvm.benchmark.workload import LENGTHS, Workload

__all__ = ["LENGTHS", "PROGRAMS", "SIZES", "Part", "Setup", "Workload", "load"]
