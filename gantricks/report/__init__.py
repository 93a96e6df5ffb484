"""One page about one run, or about several side by side. Reads what runs have written, without torch."""

from gantricks.report.page import page
from gantricks.report.records import Record, read_run

__all__ = ["Record", "page", "read_run"]
