"""Recipes that ship with gantricks, as TOML."""
