"""Ray as the jobs use it: start or attach, training workers, the endpoint's settings."""
