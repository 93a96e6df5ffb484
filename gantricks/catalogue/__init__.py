"""The parts that recipes can name: tricks, networks, data sources, metrics, loggers and shipped recipes."""
