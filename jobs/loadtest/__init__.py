"""Load, kills and yardsticks for the benchmarks of the endpoint and of the cluster."""
