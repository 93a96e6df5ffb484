"""The tricks: one file each. Only the public names of `gantricks` are used here."""
