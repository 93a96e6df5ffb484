"""The laws that every trick obeys, in the order in which they are checked. Each is a check with a stable id and a
one-line hint.
"""

from __future__ import annotations

from gantricks.testing.case import LAWS, Case, Law, NotApplicable
from gantricks.testing.laws import captured, first, others, players, states, values
from gantricks.testing.laws.captured import compiled_holds
from gantricks.testing.laws.values import folds_hold

__all__ = ["LAWS", "Case", "Law", "NotApplicable", "compiled_holds", "folds_hold"]

for _module in (first, values, players, states, captured, others):
    for _name in [name for name, law in LAWS.items() if law.check.__module__ == _module.__name__]:
        LAWS[_name] = LAWS.pop(_name)  # independent of the order in which modules were imported
