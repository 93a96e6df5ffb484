"""Runs: the loop around the step, and the files that it writes."""
