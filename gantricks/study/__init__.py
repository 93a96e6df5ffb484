"""Studies of the effect of each trick: runs with and without it, the change with its interval, and a verdict."""

from gantricks.study.playing import Reporter
from gantricks.study.study import ablate
from gantricks.study.table import Comparison, Mean, Table

__all__ = ["Comparison", "Mean", "Reporter", "Table", "ablate"]
