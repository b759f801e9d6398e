"""Whether a cluster can hold a job, and how long it takes: cluster, memory, duration."""
