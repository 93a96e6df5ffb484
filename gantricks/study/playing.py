"""The runs of a study, whatever its design: those with an outcome, those that are left, and workers that play these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gantricks.errors import Problem, UserError
from gantricks.planning.recipe import Recipe
from gantricks.runs import signals
from gantricks.study.folder import Folder, Outcome, RunKey, locked, written_in
from gantricks.study.pool import Pool, Task
from gantricks.study.slimming import slimmed

if TYPE_CHECKING:
    from gantricks.study.trials import Trial
    from gantricks.study.variants import Design


class Reporter:
    """Listens to a study, to show its progress. The methods of this base class do nothing; override those you need."""

    def planned(self, folder: Path, design: Design, seeds: Mapping[str, Sequence[int]], done: int) -> None:
        """The variants are known, and the seeds of each. `done` runs were finished before."""

    def foreseen(self, sentence: str) -> None:
        """What the study will be able to see, before its first run."""

    def designed(self, folder: Path, words: str, total: int, done: int, warnings: Sequence[str]) -> None:
        """The runs of a study by regression are known: `words` say what they are, `warnings` what cannot be trained.
        `done` of the `total` runs were finished before.
        """

    def stepped(self, runs: int, steps: float) -> None:
        """`runs` runs are finished; the steps of the others add up to `steps` more runs."""

    def finished(self, outcome: Outcome, done: int, total: int) -> None:
        """A run has ended."""

    def tried(self, trial: Trial, done: int, total: int) -> None:
        """A trial of a search has ended."""

    def warn(self, sentence: str) -> None:
        """Something has happened that the user should know."""

    def close(self) -> None:
        """The last run has ended, for whatever reason."""


class Interrupted(BaseException):
    """A signal (`number`) has ended a study. `done` of `total` runs, or trials of a search, are finished."""

    def __init__(self, number: int, done: int, total: int) -> None:
        super().__init__(number)
        self.number, self.done, self.total = number, done, total


@dataclass(frozen=True)
class Figure:
    """The compared figure: the metric, the name of the figure, its better direction, and whether it is always above 0,
    so that ratios are compared.
    """

    metric: str
    name: str
    better: str
    ratio: bool = False


class Playing:
    """The runs of a study, each a variant with a seed.

    `every` lists them in the order in which they are played. `base` is a recipe that they share device and steps with.
    A run of the variant `reference` that is refused ends the study, since nothing can be compared with it. With `slim`,
    a run's checkpoints are removed once it is measured.
    """

    def __init__(
        self,
        home: Folder,
        every: Iterable[RunKey],
        base: Recipe,
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
        *,
        reference: str | None = None,
        slim: bool = False,
    ) -> None:
        self.home, self.every, self.base, self.compared = home, [*every], base, compared
        self.plugins, self.reporter = [str(path) for path in plugins], reporter
        self.reference, self.slim = reference, slim
        self.metrics = list(dict.fromkeys([compared.metric, *(instance.name for instance in base.metrics)]))
        self._recorded = home.recorded()
        found = {run: home.outcome(run, self._recorded) for run in self.every}
        self.outcomes = {run: outcome for run, outcome in found.items() if outcome}
        self.left = [run for run in self.every if not found[run]]
        self.session = 1 + max((outcome.session for outcome in self.outcomes.values()), default=0)
        for outcome in self.outcomes.values():
            self._of_same_data(outcome)
        self._record()
        self.total = len(self.every)
        self._floor_asked = self.floor is not None
        if slim:
            for run in self.outcomes:
                slimmed(home.run(*run))  # a process may have been killed before it did so itself

    def recipe(self, variant: str, seed: int) -> Path:
        """Return the file of the recipe that a run trains. It is asked for when it is the run's turn."""
        return self.home.recipe(variant)

    @property
    def done(self) -> int:
        """The number of runs, of `total`, that have ended."""
        return len(self.outcomes)

    @property
    def floor(self) -> dict[str, float | None] | None:
        """The metric's figures of real samples, from the first run that measured them."""
        return next((outcome.floor for outcome in self.outcomes.values() if outcome.floor), None)

    @property
    def failed(self) -> dict[str, str]:
        """The runs that were refused or have failed, with the reasons."""
        broken = [outcome for outcome in self.outcomes.values() if not outcome.kept]
        return {f"{outcome.variant} seed {outcome.seed}": outcome.reason for outcome in broken}

    @property
    def seconds(self) -> float:
        return round(sum(outcome.seconds for outcome in self.outcomes.values()), 1)

    def _record(self) -> None:
        """Keep the outcomes where they outlive the folders of their runs."""
        merged = self._recorded | {run: outcome for run, outcome in self.outcomes.items() if outcome.kept}
        if merged != self._recorded:
            with written_in(self.home):
                self.home.record(merged)
            self._recorded = merged

    def _of_same_data(self, outcome: Outcome) -> None:
        """Raise UserError where a run was trained on other samples than the rest."""
        other = next((o for o in self.outcomes.values() if o.data and outcome.data and o.data != outcome.data), None)
        if other:
            runs = " and ".join(f"{o.variant} seed {o.seed}" for o in (other, outcome))
            run = self.home.run(outcome.variant, outcome.seed)
            hint = f"give the data that the study began with and remove {run}, or name another folder with --dir"
            raise UserError(Problem(f"its runs were trained on different data: {runs}", str(self.home.path), hint))

    def play(self, pool: Pool) -> None:
        """Play the runs that are left. Raises UserError when the reference is refused, or when the data has changed."""
        shares: dict[RunKey, float] = {}
        left = deque(self.left)

        for task, news in pool.play(lambda: self.task(left.popleft()) if left else None):
            run = task["variant"], task["seed"]
            if isinstance(news, int):
                shares[run] = news / self.base.train.steps
            elif isinstance(news, Outcome):
                shares.pop(run, None)
                self.take(task, news)
                self.reporter.finished(news, len(self.outcomes), self.total)
                if news.status == "refused" and run[0] == self.reference:
                    raise UserError(Problem(f"a run of the recipe itself is refused: {news.reason}", task["run"]))
            self.reporter.stepped(len(self.outcomes), sum(shares.values()))

    def task(self, run: RunKey) -> Task:
        """Return what a worker is told of a run. The first of a study also measures real samples."""
        variant, seed = run
        asked, self._floor_asked = not self._floor_asked, True
        return {
            "run": str(self.home.run(variant, seed).absolute()),
            "recipe": str(self.recipe(variant, seed).absolute()),
            "variant": variant,
            "seed": seed,
            "metrics": self.metrics,
            "figure": self.compared.name,
            "floor": asked,
            "device": self.base.train.device,
            "plugins": self.plugins,
            "slim": self.slim,
            "session": self.session,
        }

    def take(self, task: Task, news: Outcome) -> None:
        """Keep the outcome of a run. Raises UserError where its data is not that of the other runs."""
        self._of_same_data(news)
        self.outcomes[task["variant"], task["seed"]] = news
        self._record()
        if task["floor"] and not news.floor and news.status != "done":
            self._floor_asked = False  # the next run measures it instead


P = TypeVar("P", bound=Playing)
R = TypeVar("R")


def conduct(
    home: Folder,
    begin: Callable[[], Iterable[str]],
    runs: Callable[[], P],
    end: Callable[[P], R],
    *,
    jobs: int,
    threads: int,
    worker: Sequence[str],
    reporter: Reporter,
) -> R:
    """Play the runs of a study, alone in its folder, and return its results.

    `begin` writes the study's plan and yields warnings; `runs` finds which runs there are; `end` writes the results.
    `worker` is the command of a worker process. Raises Interrupted after the workers have saved their runs.
    """
    with signals.heard() as ending, locked(home) as descriptors:
        for sentence in begin():
            reporter.warn(sentence)
        playing = runs()
        try:
            if playing.left:
                with Pool(min(jobs, len(playing.left)), threads, worker, descriptors) as pool:
                    playing.play(pool)
        except (KeyboardInterrupt, SystemExit):
            if ending.number is None:
                raise
            raise Interrupted(ending.number, playing.done, playing.total) from None
        finally:
            reporter.close()
        return end(playing)
