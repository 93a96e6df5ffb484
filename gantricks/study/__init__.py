"""Studies: what does each trick of a recipe do? The same seeds with it and without it, a difference, a verdict."""

from gantricks.study.study import Reporter, ablate
from gantricks.study.table import Comparison, Mean, Table

__all__ = ["Comparison", "Mean", "Reporter", "Table", "ablate"]
