"""Ray as the jobs use it: start or connect to it, training workers, settings of the endpoint."""
