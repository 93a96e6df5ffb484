"""A process that plays a study's runs one after another: told which by a line of JSON, it answers in lines of JSON.

    {"run": "…/seed-0", "variant": "full", "seed": 0, "recipe": "…/recipe.toml", "metric": …, "figure": …, "floor": …,
     "device": "cpu", "plugins": […]}
    -> {"step": 120}                      now and then
    -> {"outcome": {…}}                   once, an `Outcome`

It ends when its input does, having saved the run that it is at.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from gantricks.catalogue.imports import ended_by_plugin, plugin_line
from gantricks.engine.subject import GameSubject
from gantricks.errors import Diverged, UserError
from gantricks.runs import api as run
from gantricks.runs import checkpoint
from gantricks.runs.folder import RECIPE
from gantricks.runs.reporter import Reporter, Result
from gantricks.study.folder import Outcome, read_outcome, write_outcome

if TYPE_CHECKING:
    from gantricks.engine.game import Game

LOOKED_AT = 256
"""Samples, generated and real, that tell whether a generator has collapsed."""
POINT = 0.01

BETWEEN_REPORTS = 0.5
"""Seconds between two lines on how far a run is."""


class Measured(Protocol):
    """What one metric found, and what it finds for real samples; `gantricks.runs.evaluation.Evaluated` is such."""

    @property
    def measurement(self) -> Any: ...

    @property
    def floor(self) -> Any: ...


Measure = Callable[[Mapping[str, Any]], Measured]
"""Called with the task of a finished run."""


def evaluate(task: Mapping[str, Any]) -> Measured:
    """Measure a run with the metric of its task, which also tells whether the floor is wanted."""
    from gantricks.runs.evaluation import evaluate as evaluation

    facts = {key: task[key] for key in ("floor", "device", "plugins")}
    return evaluation(task["run"], [task["metric"]], **facts)[0]


def collapsed(task: Mapping[str, Any]) -> bool:
    """Whether the samples of a finished run are one point, or one of each class where there are classes."""
    game = run.load_game(task["run"], device=task["device"], plugins=task["plugins"])
    subject = GameSubject(game, LOOKED_AT, 0)
    reals = np.concatenate([samples for samples, _ in subject.reals(min(LOOKED_AT, len(game.dataset.samples)))])
    fakes = np.concatenate([samples for samples, _ in subject.generated(LOOKED_AT)])
    return one_point(fakes, reals, max(1, game.generator.classes))


def one_point(fakes: np.ndarray, reals: np.ndarray, classes: int = 1) -> bool:
    """Whether no number in `fakes` (n, …) varies by more than `POINT` of what those in `reals` vary by, all together.

    Where there are `classes`, sample i is of class i modulo their number, and each is looked at by itself.
    """
    groups = [group for first in range(classes) if len(group := fakes[first::classes]) > 1]
    spreads = [group.std(0).max() for group in groups]
    return bool(spreads) and bool(max(spreads) <= POINT * np.sqrt(reals.var(0).mean()))


def play(task: Mapping[str, Any], stepped: Callable[[int], None], measure: Measure = evaluate) -> Outcome | None:
    """Train, resume or only measure one run, as far as it is not done yet. None when a signal has interrupted it.

    An outcome that is a result is left in the run's folder. Nothing that goes wrong is raised.
    """
    folder, began = Path(task["run"]), time.monotonic()

    def outcome(status: Any, **facts: Any) -> Outcome:
        ended = Outcome(task["variant"], task["seed"], status, **facts)
        if ended.kept:
            write_outcome(folder, ended)
        return ended

    try:
        if earlier := read_outcome(folder, (task["variant"], task["seed"])):
            return earlier
        result = _train(task, folder, _Reporter(stepped))
        if result.signal is not None:
            return None
        seconds = time.monotonic() - began
        measured = measure(task)
        values = _finite(measured.measurement.values)
        value = values[task["figure"]]
        return outcome(
            "diverged" if value is None else "done",
            value=value,
            reason="" if value is not None else f"{task['figure']} is not finite",
            stopped=result.stopped,
            steps=result.finished,
            seconds=round(seconds, 3),
            values=values,
            facts=measured.measurement.facts,
            floor=_finite(measured.floor.values) if measured.floor else None,
            collapsed=collapsed(task),
        )
    except Diverged as error:
        return outcome("diverged", reason=error.problems[0].what)
    except UserError as error:
        return outcome("refused", reason="; ".join(str(problem) for problem in error.problems))
    except SystemExit as error:
        if not plugin_line(error):  # a signal, for the second time or too early to be noted
            raise
        return outcome("refused", reason=str(ended_by_plugin(error)))
    except Exception as error:
        traceback.print_exc()
        return outcome("failed", reason=f"{type(error).__name__}: {error}")


def _train(task: Mapping[str, Any], folder: Path, reporter: Reporter) -> Result:
    # one that was killed in its first seconds has a recipe and no checkpoint: it begins anew, in its place
    if checkpoint.checkpoints(folder) or (folder / RECIPE).is_file():
        return run.resume(folder, plugins=task["plugins"], reporter=reporter)
    seed = f"seed={task['seed']}"
    return run.train(task["recipe"], overrides=[seed], run_dir=folder, plugins=task["plugins"], reporter=reporter)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


class _Reporter(Reporter):
    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._told = tell, time.monotonic()

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        self._tell(game.finished)

    def stepped(self, finished: int) -> None:
        now = time.monotonic()
        if now - self._told >= BETWEEN_REPORTS:
            self._told = now
            self._tell(finished)


class _Tasks:
    """Lines of the input, read by a thread, so that its end is noticed in the middle of a run."""

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
            # nobody waits for the answer any more: the run saves itself and ends
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self) -> dict[str, Any] | None:
        line = self._lines.get()
        return None if line is None else json.loads(line)

    def answered(self) -> None:
        self._unanswered -= 1


def serve(source: IO[str], sink: IO[str], measure: Measure = evaluate) -> int:
    """Play what `source` asks for and answer on `sink`. Returns the exit status."""
    tasks = _Tasks(source)

    def say(**line: Any) -> None:
        sink.write(json.dumps(line, allow_nan=False) + "\n")
        sink.flush()

    while task := tasks.next():
        outcome = play(task, lambda step: say(step=step), measure)
        if outcome is None:
            return 128 + signal.SIGTERM
        tasks.answered()  # before the answer, which may bring the next task
        say(outcome=asdict(outcome))
        gc.collect()  # what a run leaves in circles would be memory beside that of the next
    return 0


def main(measure: Measure = evaluate) -> int:
    """Serve on this process's own input and output; what anything else prints goes to standard error."""
    sink = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return serve(sys.stdin, sink, measure)


if __name__ == "__main__":
    sys.exit(main())
