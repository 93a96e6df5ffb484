"""Extractors turn images into the features that metrics compare, found by name: one module per extractor."""
