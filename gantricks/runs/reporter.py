"""What a run tells as it goes, and how it ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gantricks.planning.device import Placement
from gantricks.planning.plan import Plan

if TYPE_CHECKING:
    from gantricks.engine.game import Game


class Reporter:
    """Listens to a run. Every method may be overridden; these do nothing."""

    def planned(self, plan: Plan, placement: Placement) -> None:
        """The recipe fits together."""

    def reading(self, what: str, done: int, total: int) -> None:
        """A data source is scanning or decoding."""

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        """The first step is next."""

    def capturing(self, what: str) -> None:
        """The step is compiled or captured, which can take a minute; then the run goes on."""

    def stepped(self, finished: int) -> None:
        """A step is done."""

    def logged(self, finished: int, scalars: dict[str, float], steps_per_second: float) -> None:
        """A log line was written."""

    def warn(self, sentence: str) -> None:
        """Something the user should know."""

    def close(self) -> None:
        """The loop is over, for whatever reason."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    `signal` is the one that interrupted it, `stopped` the reason of the trick that ended it early, `memory` the most
    bytes that the process has held: of the GPU's memory, or of the machine's; `state_from` the step that its last state
    is from, where a trick has brought an earlier one back.
    """

    run: Path
    finished: int
    steps: int
    signal: int | None = None
    stopped: str | None = None
    memory: int | None = None
    state_from: int | None = None

    @property
    def pictures(self) -> list[Path]:
        found = [path for path in (self.run / "samples").glob("*.png") if re.fullmatch("[0-9]{1,18}", path.stem)]
        return sorted(found, key=lambda path: int(path.stem))
