"""The training step and everything that plays, records, saves and samples it."""
