"""An HTML page about one run, or about several side by side, from the files of the runs. It needs no torch."""

from gantricks.report.page import page
from gantricks.report.records import Record, read_run

__all__ = ["Record", "page", "read_run"]
