"""Load, process kills and baselines for the benchmarks of the endpoint and the cluster."""
