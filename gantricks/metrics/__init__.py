"""Metrics of what a run has learned, found by name: one module per metric."""
