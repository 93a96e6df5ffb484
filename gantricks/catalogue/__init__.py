"""The parts that recipes can name: tricks, networks, data sources, metrics and shipped recipes."""
