"""A process that plays runs of a study one after another. Tasks and answers are lines of JSON.

    {"run": "…/seed-0", "variant": "full", "seed": 0, "recipe": "…/recipe.toml", "metrics": […], "figure": …,
     "floor": …, "device": "cpu", "plugins": […], "slim": false, "session": 1}
    -> {"step": 120}                      now and then
    -> {"figure": [100, 0.25]}            with "watched": true, each time that the run has measured the figure
    -> {"outcome": {…}}                   once, an `Outcome`

When its input ends, it saves its run and ends.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import signal
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from gantricks.catalogue.imports import ended_by_plugin, plugin_line
from gantricks.engine.subject import GameSubject
from gantricks.errors import Diverged, UserError
from gantricks.runs import api as run
from gantricks.runs import checkpoint
from gantricks.runs.folder import RECIPE
from gantricks.runs.manifest import read_manifest
from gantricks.runs.reporter import Reporter, Result
from gantricks.study.curves import read_curve
from gantricks.study.folder import Outcome, read_outcome, write_outcome
from gantricks.study.slimming import slimmed

if TYPE_CHECKING:
    from gantricks.engine.game import Game

LOOKED_AT = 256
"""The number of samples, generated and real, for detecting a collapsed generator."""
POINT = 0.01

BETWEEN_REPORTS = 0.5
"""The number of seconds between two reports on the progress of a run."""


@dataclass(frozen=True)
class Figures:
    """What was measured of a finished run, and of real samples where it was asked for.

    `values` and `floor` hold the study's metric by the names of its figures, and the recipe's other metrics by
    "metric.figure", or "metric" where the figure has its name. `facts` say how the study's metric was measured.
    """

    values: Mapping[str, float]
    facts: Mapping[str, str | int | float]
    floor: Mapping[str, float] | None = None


Measure = Callable[[Mapping[str, Any]], Figures]
"""A function that measures a finished run, called with its task."""


def evaluate(task: Mapping[str, Any]) -> Figures:
    """Measure a run with the metrics of its task, the study's first. The task also says whether the floor is wanted."""
    from gantricks.runs.evaluation import evaluate as evaluation

    facts = {key: task[key] for key in ("floor", "device", "plugins")}
    own, *others = evaluation(task["run"], task["metrics"], **facts)
    values, floor = dict(own.measurement.values), dict(own.floor.values if own.floor else {})
    for other in others:
        for name, value in other.measurement.values.items():
            beside = other.metric if name == other.metric else f"{other.metric}.{name}"
            values[beside] = value
            if other.floor:
                floor[beside] = other.floor.values[name]
    return Figures(values, own.measurement.facts, floor or None)


def collapsed(task: Mapping[str, Any]) -> bool:
    """Return whether the samples of a finished run are one point, or one point for each class."""
    game = run.load_game(task["run"], device=task["device"], plugins=task["plugins"])
    subject = GameSubject(game, LOOKED_AT, 0)
    reals = np.concatenate([samples for samples, _ in subject.reals(min(LOOKED_AT, len(game.dataset.samples)))])
    with game.placement.computing():
        fakes = np.concatenate([samples for samples, _ in subject.generated(LOOKED_AT)])
    return one_point(fakes, reals, max(1, game.generator.classes))


def one_point(fakes: np.ndarray, reals: np.ndarray, classes: int = 1) -> bool:
    """Return whether the spread of all numbers in `fakes` (n, …) is at most `POINT` of the spread in `reals`.

    With several `classes`, sample i has class i modulo their number, and each class is tested by itself.
    """
    groups = [group for first in range(classes) if len(group := fakes[first::classes]) > 1]
    spreads = [group.std(0).max() for group in groups]
    return bool(spreads) and bool(max(spreads) <= POINT * np.sqrt(reals.var(0).mean()))


def play(
    task: Mapping[str, Any],
    stepped: Callable[[int], None],
    measure: Measure = evaluate,
    watch: Callable[[int, float], None] | None = None,
) -> Outcome | None:
    """Train, resume or only measure one run, whatever is left of it. Returns None when a signal has interrupted it.

    `watch` is called with a step and the figure that the run has measured there, those before an interruption among
    them. A result is written into the run's folder. Errors are returned as outcomes and not raised.
    """
    folder, began = Path(task["run"]), time.monotonic()

    def outcome(status: Any, **facts: Any) -> Outcome:
        ended = Outcome(task["variant"], task["seed"], status, session=task["session"], **facts)
        if ended.kept:
            write_outcome(folder, ended)
        return ended

    try:
        if earlier := read_outcome(folder, (task["variant"], task["seed"])):
            return earlier
        reporter = _Reporter(stepped, lambda: read_curve(folder, task["metrics"][0], task["figure"]), watch)
        result = _train(task, folder, reporter)
        if result.signal is not None:
            return None
        seconds = time.monotonic() - began
        measured = measure(task)
        values = _finite(measured.values)
        value = values[task["figure"]]
        return outcome(
            "diverged" if value is None else "done",
            value=value,
            reason="" if value is not None else f"{task['figure']} is not finite",
            stopped=result.stopped,
            steps=result.finished,
            seconds=round(seconds, 3),
            values=values,
            facts=dict(measured.facts),
            floor=_finite(measured.floor) if measured.floor else None,
            collapsed=collapsed(task),
            step_seconds=reporter.step_seconds,
            curve=tuple(reporter.curve().items()),
            data=read_manifest(folder).data.fingerprint or "",
        )
    except Diverged as error:
        # results travel to other machines, where the run's folder is another one or none
        return outcome("diverged", reason=error.problems[0].what.replace(f"{folder}{os.sep}", ""))
    except UserError as error:
        return outcome("refused", reason="; ".join(str(problem) for problem in error.problems))
    except SystemExit as error:
        if not plugin_line(error):  # a second signal, or one before the handler was ready
            raise
        return outcome("refused", reason=str(ended_by_plugin(error)))
    except Exception as error:
        traceback.print_exc()
        return outcome("failed", reason=f"{type(error).__name__}: {error}")


def _train(task: Mapping[str, Any], folder: Path, reporter: Reporter) -> Result:
    # a run that was killed in its first seconds has a recipe and no checkpoint, and begins anew in the same folder
    if checkpoint.checkpoints(folder) or (folder / RECIPE).is_file():
        return run.resume(folder, plugins=task["plugins"], reporter=reporter)
    seed = f"seed={task['seed']}"
    return run.train(task["recipe"], overrides=[seed], run_dir=folder, plugins=task["plugins"], reporter=reporter)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


class _Reporter(Reporter):
    def __init__(
        self,
        tell: Callable[[int], None],
        curve: Callable[[], Mapping[int, float]],
        watch: Callable[[int, float], None] | None,
    ) -> None:
        self._tell, self._told = tell, time.monotonic()
        self.curve, self._watch, self._watched = curve, watch, set[int]()
        self._paces = list[float]()

    @property
    def step_seconds(self) -> float | None:
        """The median over log intervals, so that compiling at the start and a busy moment do not count."""
        return 1 / statistics.median(self._paces) if self._paces else None

    def logged(self, finished: int, scalars: dict[str, float], steps_per_second: float) -> None:
        if steps_per_second > 0:
            self._paces.append(steps_per_second)

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        self._tell(game.finished)
        self._show()

    def measured(self, finished: int, figures: Mapping[str, float], seconds: float) -> None:
        self._show()

    def _show(self) -> None:
        if self._watch:
            for step, value in self.curve().items():
                if step not in self._watched:
                    self._watched.add(step)
                    self._watch(step, value)

    def stepped(self, finished: int) -> None:
        now = time.monotonic()
        if now - self._told >= BETWEEN_REPORTS:
            self._told = now
            self._tell(finished)


class _Tasks:
    """Lines of the input, read by a thread, so that the end of the input is noticed during a run."""

    def __init__(self, source: IO[str]) -> None:
        self._source, self._lines = source, queue.Queue[str | None]()
        self._unanswered = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._source:
            self._unanswered += 1
            self._lines.put(line)
        self._lines.put(None)
        if self._unanswered:
            # the study has ended: let the run save itself and end
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self) -> dict[str, Any] | None:
        line = self._lines.get()
        return None if line is None else json.loads(line)

    def answered(self) -> None:
        self._unanswered -= 1


def serve(source: IO[str], sink: IO[str], measure: Measure = evaluate) -> int:
    """Play the tasks of `source` and answer on `sink`. Returns the exit status."""
    tasks = _Tasks(source)

    def say(**line: Any) -> None:
        sink.write(json.dumps(line, allow_nan=False) + "\n")
        sink.flush()

    while task := tasks.next():
        watch = (lambda step, value: say(figure=[step, value])) if task.get("watched") else None
        outcome = play(task, lambda step: say(step=step), measure, watch)
        if outcome is None:
            return 128 + signal.SIGTERM
        if task.get("slim") and outcome.kept:
            slimmed(Path(task["run"]))
        tasks.answered()  # before the answer, because the next task may follow it at once
        say(outcome=asdict(outcome))
        gc.collect()  # free reference cycles of this run before the next one allocates
    return 0


def main(measure: Measure = evaluate) -> int:
    """Serve on this process's standard input and output. All other output goes to standard error."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return serve(sys.stdin, sink, measure)


if __name__ == "__main__":
    sys.exit(main())
