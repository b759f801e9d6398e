"""Whether a cluster can hold a job, and how long the job takes there."""
