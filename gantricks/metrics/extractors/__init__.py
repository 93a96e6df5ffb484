"""Extractors turn images into the features that metrics compare. They are found by name: one module per extractor."""
