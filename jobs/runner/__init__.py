"""What all verbs share: command line, run folder, lock, logs, part files."""
