"""Runs: the loop around the step and what it leaves on the disk."""
