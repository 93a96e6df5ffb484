"""Loggers: what is told of a run beside the files that it writes. None ships with gantricks."""
