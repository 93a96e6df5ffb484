"""Metrics of trained generators and discriminators, found by name: one module per metric."""
