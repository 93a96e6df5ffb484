"""Studies of the effect of each trick: the same seeds with and without it, the difference, and a verdict."""

from gantricks.study.playing import Reporter
from gantricks.study.study import ablate
from gantricks.study.table import Comparison, Mean, Table

__all__ = ["Comparison", "Mean", "Reporter", "Table", "ablate"]
