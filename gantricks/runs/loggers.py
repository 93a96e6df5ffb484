"""Tells the loggers of a run what happens, and does without those that fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from PIL.Image import Image

from gantricks.catalogue.imports import in_words, plugin_line
from gantricks.loggers.base import Logger, Outcome
from gantricks.planning.facts import PlannedLogger

SLOW_SHARE, SLOW_SECONDS = 0.1, 10.0
"""A logger that takes more than this share of a run's time, and at least these seconds, is told to the user."""

Ended = tuple[int, Outcome, str]
"""The arguments of `Logger.ended`."""


class Loggers:
    """The loggers of a run. Each is given data of its own, so that none can change what the next one or the run sees.

    `warn` is called with a sentence about each that fails, which is called no more, and about each that is slow.
    """

    def __init__(self, planned: Sequence[PlannedLogger], warn: Callable[[str], None]) -> None:
        self._planned, self._warn = planned, warn
        self._called: list[PlannedLogger] = []
        """Those that have started, and have not failed."""
        self._seconds = {one.name: 0.0 for one in planned}
        self._slow: set[str] = set()
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def told(
        self, run: Path, recipe: Mapping[str, Any], after: int, ended: Callable[[BaseException | None], Ended]
    ) -> Iterator[None]:
        """Tell the loggers that training starts, and, however it ends, what `ended` returns for its error."""
        self._began = time.perf_counter()
        folder = run.absolute()
        try:
            for planned in self._planned:
                if self._call(planned, lambda logger: logger.started(folder, deepcopy(recipe), after)):
                    self._called.append(planned)
            yield
        except BaseException as error:
            self._end(ended(error))
            raise
        self._end(ended(None))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._tell(lambda logger: logger.scalars(step, dict(scalars)))

    def picture(self, step: int, picture: Image) -> None:
        self._tell(lambda logger: logger.picture(step, picture.copy()))

    def _end(self, ended: Ended) -> None:
        self._tell(lambda logger: logger.ended(*ended))

    def _tell(self, call: Callable[[Logger], None]) -> None:
        self._called = [planned for planned in self._called if self._call(planned, call)]

    def _call(self, planned: PlannedLogger, call: Callable[[Logger], None]) -> bool:
        """Call a method of a logger. Returns False where it fails."""
        began = time.perf_counter()
        try:
            call(planned.logger)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            where = plugin_line(error) or planned.origin.partition(" sha256:")[0]
            self._warn(f"the run goes on without the logger {planned.name} ({where}): {in_words(error)}")
            return False
        self._time(planned.name, time.perf_counter() - began)
        return True

    def _time(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds
        spent, total = self._seconds[name], time.perf_counter() - self._began
        if spent >= SLOW_SECONDS and spent > SLOW_SHARE * total and name not in self._slow:
            self._slow.add(name)
            self._warn(f"the run waits for the logger {name}: {spent:.0f} of its {total:.0f} seconds so far")
