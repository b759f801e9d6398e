"""Several jobs as the stages of one run."""
