"""What every verb is run by: command line, run folder, lock, logs, part files."""
