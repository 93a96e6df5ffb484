"""The listener of a run, and its result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantricks.planning.device import Placement
from gantricks.planning.plan import Plan

if TYPE_CHECKING:
    from gantricks.engine.game import Game


class Reporter:
    """Listens to a run, to show its progress. The methods of this base class do nothing; override those you need."""

    def planned(self, plan: Plan, placement: Placement) -> None:
        """The recipe has been planned without an error."""

    def reading(self, what: str, done: int, total: int) -> None:
        """A data source is scanning or decoding."""

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        """The run is about to play its first step."""

    def capturing(self, what: str) -> None:
        """The step is about to be compiled or captured, which can take a minute."""

    def stepped(self, finished: int) -> None:
        """A step is done."""

    def logged(self, finished: int, scalars: dict[str, float], steps_per_second: float) -> None:
        """A log line was written."""

    def measuring(self, what: str, done: int, total: int) -> None:
        """A metric is being measured."""

    def measured(self, finished: int, figures: Mapping[str, float], seconds: float) -> None:
        """The metrics were measured. `figures` are by name, the main one of each metric first."""

    def warn(self, sentence: str) -> None:
        """Something has happened that the user should know."""

    def close(self) -> None:
        """The loop has ended, for whatever reason."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    `signal` is the number of the signal that interrupted it. `stopped` is the reason of the trick that ended it early.
    `memory` is the largest number of bytes that the process has held, of the GPU's memory or of the machine's.
    `state_from` is the step of the snapshot that a trick has restored, if any. `unmeasured` says that the signal came
    before the metrics of the last state were measured: `resume` does that first.
    """

    run: Path
    finished: int
    steps: int
    signal: int | None = None
    stopped: str | None = None
    memory: int | None = None
    state_from: int | None = None
    unmeasured: bool = False

    @property
    def pictures(self) -> list[Path]:
        found = [path for path in (self.run / "samples").glob("*.png") if re.fullmatch("[0-9]{1,18}", path.stem)]
        return sorted(found, key=lambda path: int(path.stem))
