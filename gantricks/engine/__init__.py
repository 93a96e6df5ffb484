"""The training step, and the modules that play, capture, save and sample it."""
