"""One file = one command = one pipeline: ``visvm VERB`` or ``python -m jobs.NAME``."""
