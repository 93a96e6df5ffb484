"""What a search has found: its trials, the best of them, and what each key matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gantricks.study.parameters import Parameter
from gantricks.study.trials import Trial

IMPORTANCE = "PED-ANOVA"
"""How importance is computed. Unlike fANOVA it needs no scikit-learn, and it takes keys that not every trial has."""


@dataclass(frozen=True)
class Search:
    """A search and its trials, in the order in which they were drawn.

    `space` are its parameters. `best` is None where no trial has a figure. `importance` has a share of 1 for each key,
    and is empty where too few trials tell. `floor` is the figure of real samples, where it was measured. `failed` are
    the runs that are repeated by the same command, with the reasons. `digest` is that of best.toml as it was written.
    """

    name: str
    metric: str
    figure: str
    better: str
    ratio: bool
    seeds: tuple[int, ...]
    steps: int
    space: Sequence[Parameter]
    trials: Sequence[Trial]
    best: Trial | None
    importance: dict[str, float]
    floor: float | None = None
    failed: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as plain data, as results.json has it."""
        return {
            "name": self.name,
            "mode": "tune",
            "metric": self.metric,
            "figure": self.figure,
            "better": self.better,
            "mean": "geometric" if self.ratio else "arithmetic",
            "seeds": [*self.seeds],
            "steps": self.steps,
            "floor": self.floor,
            "space": [str(one) for one in self.space],
            "best": self.best and asdict(self.best),
            "importance": self.importance,
            "importance_by": IMPORTANCE,
            "trials": [asdict(trial) for trial in self.trials],
            "failed": self.failed,
            "best_digest": self.digest,
        }
