"""What there is to choose from: tricks, networks, data sources, metrics and recipes, by name."""
