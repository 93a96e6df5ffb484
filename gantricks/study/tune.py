"""A search over values of a recipe's keys: trials that Optuna draws, each a run or several, and the best of them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gantricks.errors import Problem, UserError
from gantricks.files import set_aside, write_whole
from gantricks.planning.prepare import plan_recipe
from gantricks.planning.recipe import Recipe
from gantricks.planning.validation import load_recipe
from gantricks.study.folder import Folder, Outcome, choose, written_in
from gantricks.study.parameters import Drawn, Parameter, as_overrides, checked, parameters
from gantricks.study.playing import Figure, Playing, Reporter, conduct
from gantricks.study.pool import WORKER, Pool, Reading, Task
from gantricks.study.search import Search
from gantricks.study.search_picture import search_picture
from gantricks.study.search_words import as_markdown
from gantricks.study.study import begin, open_study, write_results, written
from gantricks.study.trials import State, Trials, named, require_optuna
from gantricks.study.variants import Base, tried

MODE = "tune"
BEST, RESULTS = "best.toml", "results.json"


def tune(
    recipe: str | Path,
    space: Sequence[str],
    *,
    trials: int = 50,
    seeds: int = 1,
    prune_every: int | None = None,
    seed: int = 0,
    metric: str | None = None,
    figure: str | None = None,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Search]:
    """Play `trials` trials with values that Optuna's TPE draws, and find the best by a figure of a metric.

    `space` are words such as `tricks.ema.decay=0.9..0.9999` (see `parameter`). A trial has `seeds` runs, from the
    recipe's seed on, and their mean figure. With `prune_every`, the figure is measured so often while a run trains, and
    a trial whose best figure so far is worse than the median of those before it, at the same step, is stopped (Optuna's
    `MedianPruner`, from the sixth trial on). `seed` is that of the search. All else is as in `ablate`.

    The same call continues a search that was stopped; with more `trials`, it extends it. Returns the study's folder and
    what was found, which is also written there. Raises UserError with everything that is wrong; Interrupted, after the
    workers have saved their runs.
    """
    require_optuna()
    reporter = reporter or Reporter()
    read = parameters(space)
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    base = _measuring(opened.base, prune_every) if prune_every else opened.base
    numbers = tuple(base.recipe.seed + i for i in range(seeds))
    taken = checked(base, read)
    definition = _definition(base, taken, opened.compared, numbers, prune_every, seed)
    home = choose(folder, f"{base.recipe.name}-{MODE}", definition)

    def playing() -> _Searching:
        kept = Trials(home.path, taken, opened.compared.better, seed)
        found = _Searching(home, base, kept, trials, numbers, opened.compared, opened.plugins, reporter)
        found.watched = prune_every is not None
        words = f"a search over {', '.join(one.key for one in taken)}" + (f", {seeds} runs each" if seeds > 1 else "")
        reporter.designed(home.path, words, found.total, found.done, [])
        return found

    def end(played: _Searching) -> Search:
        found = played.found(taken)
        if found.best:
            # the recipe as it is given, without what spares runs of a study the disk
            best = load_recipe(base.file, [*overrides, *as_overrides(found.best.values)], base.registry)
            found = replace(found, digest=_keep_best(home, best, reporter))
        write_results(home, found.as_dict(), as_markdown(found), search_picture(found))
        return found

    return home.path, conduct(
        home,
        lambda: begin(home, {}, definition, opened.threads),
        playing,
        end,
        jobs=jobs,
        threads=opened.threads,
        worker=worker,
        reporter=reporter,
    )


def _measuring(base: Base, every: int) -> Base:
    """Return the recipe with its metrics measured while it trains. Raises UserError where that is only at its end."""
    if every >= (steps := base.recipe.train.steps):
        what = f"a run has {steps:,} steps, so that nothing would be measured before its end"
        raise UserError(Problem(what, f"--prune-every {every}", "name a smaller number of steps"))
    given = (*base.overrides, f"evaluate.every={every}")
    plan, _ = plan_recipe(base.file, given, base.registry)
    return replace(base, overrides=given, plan=plan)


def _definition(
    base: Base, space: Sequence[Parameter], compared: Figure, seeds: Sequence[int], every: int | None, seed: int
) -> dict[str, Any]:
    """Return what distinguishes this search from others. The number of trials does not, so that it can be extended."""
    return {
        "mode": MODE,
        "metric": compared.metric,
        "figure": compared.name,
        "better": compared.better,
        "ratio": compared.ratio,
        "seed": seed,
        "seeds": [*seeds],
        "steps": base.recipe.train.steps,
        "prune_every": every,
        "space": {one.key: asdict(one) for one in space},
        "base": written(base.recipe),
    }


class _Searching(Playing):
    """The trials of a search. Each is drawn when it is its turn.

    The runs of a trial are played one after another, so that it can be pruned between them, and in each of them.
    """

    watched = False

    def __init__(
        self,
        home: Folder,
        base: Base,
        trials: Trials,
        wanted: int,
        seeds: tuple[int, ...],
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
    ) -> None:
        self.origin, self.kept, self.seeds = base, trials, seeds
        self.number = {named(number): number for number in range(max(wanted, len(trials)))}
        every = [(name, seed) for name in self.number for seed in seeds]
        super().__init__(home, every, base.recipe, compared, plugins, reporter)
        self.total = len(self.number)
        begun = trials.every()
        self._ended = {trial.number for trial in begun if trial.state != "unfinished"}
        self._begun = deque(trial.number for trial in begun if trial.state == "unfinished")
        self._fresh = self.total - len(begun)
        self.left = [(name, seeds[0]) for name, number in self.number.items() if number not in self._ended]
        self._next = deque[tuple[str, int]]()
        self._since = dict[str, float]()

    @property
    def done(self) -> int:
        return len(self._ended)

    def play(self, pool: Pool) -> None:
        """Play the trials that are left. Raises UserError where the first run is refused, or when the data has
        changed.
        """
        shares: dict[str, float] = {}
        stopped = set[str]()
        for task, news in pool.play(self._next_task):
            name, seed = task["variant"], task["seed"]
            if isinstance(news, int):
                shares[name] = (self.seeds.index(seed) + news / self.base.train.steps) / len(self.seeds)
            elif isinstance(news, Reading):
                if name not in stopped and self._to_stop(name, seed, news):
                    stopped.add(name)
                    # written down before the run is stopped: it would go on if this process ended in between
                    self._prune(name, seed, news)
                    pool.stop(task)
            else:
                shares.pop(name, None)
                if name in stopped and not news.kept:
                    self._floor_asked = self._floor_asked and not task["floor"]
                else:
                    self._took(task, news, pruned=name in stopped)
            self.reporter.stepped(self.done, sum(shares.values()))

    def _next_task(self) -> Task | None:
        run = self._next.popleft() if self._next else self._begin()
        if run is None:
            return None
        self._since[run[0]] = time.monotonic()
        return self.task(run) | {"watched": self.watched}

    def _begin(self) -> tuple[str, int] | None:
        """Return the first run to play of the next trial that has one; None where no trial is left."""
        while self._begun or self._fresh:
            if self._begun:
                number, values = self.kept.draw(self._begun.popleft())
            else:
                self._fresh -= 1
                number, values = self.kept.draw()
            name = named(number)
            if self._written(name, values) and (run := self._go_on(name)):
                return run
        return None

    def _written(self, name: str, values: dict[str, Drawn]) -> bool:
        """Write the recipe of a trial, unless it is written. Returns whether there is one: values that each go with the
        recipe may not go together.
        """
        path = self.home.recipe(name)
        if path.is_file():
            return True
        try:
            recipe = tried(self.origin, as_overrides(values))
        except UserError as error:
            self._end(name, "impossible", reason="; ".join(problem.what for problem in error.problems))
            return False
        with written_in(self.home):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, recipe.as_toml())
        return True

    def _go_on(self, name: str) -> tuple[str, int] | None:
        """Return the next run of a trial. Where there is none, the trial has ended."""
        runs = self._runs(name)
        if lost := next((run for run in runs if run.status == "diverged" or run.collapsed), None):
            why = lost.reason or "all samples are one point"
            self._end(name, "collapsed" if lost.collapsed else "diverged", reason=why, **_spent(runs))
        elif len(runs) < len(self.seeds):
            return name, self.seeds[len(runs)]
        else:
            figures = [run.value for run in runs if run.value is not None]
            self._end(name, "done", mean_figure(figures, self.compared.ratio), **_spent(runs))
        return None

    def _runs(self, name: str) -> list[Outcome]:
        """Return the outcomes of a trial up to the first run that has none."""
        found = list[Outcome]()
        for seed in self.seeds:
            outcome = self.outcomes.get((name, seed))
            if outcome is None or not outcome.kept:
                break
            found.append(outcome)
        return found

    def _to_stop(self, name: str, seed: int, news: Reading) -> bool:
        """Show the figure of a run to the pruner.

        Trials are compared where they have played equally much: the step counts over the runs of a trial, and the
        figure is the mean of those that its runs had at the same step. At the end of a run there is nothing to save.
        """
        if news.step >= self.base.train.steps:
            return False
        earlier = [dict(run.curve).get(news.step) for run in self._runs(name)]
        values = [news.value, *(value for value in earlier if value is not None)]
        step = self.seeds.index(seed) * self.base.train.steps + news.step
        return self.kept.show(self.number[name], step, mean_figure(values, self.compared.ratio))

    def _prune(self, name: str, seed: int, news: Reading) -> None:
        spent = _spent(self._runs(name))
        seconds = spent["seconds"] + time.monotonic() - self._since[name]
        run = f" of seed {seed}" if len(self.seeds) > 1 else ""
        reason = f"at step {news.step:,}{run}, with {news.value:.5g}"
        self._end(name, "pruned", reason=reason, steps=spent["steps"] + news.step, seconds=round(seconds, 3))

    def _took(self, task: Task, news: Outcome, pruned: bool) -> None:
        """Keep the outcome of a run, and go on with its trial. One that was pruned has ended all the same, where the
        run was over before it heard of it.
        """
        self.take(task, news)
        name = task["variant"]
        if pruned:
            return
        if news.kept:
            if run := self._go_on(name):
                self._next.append(run)
            return
        self.reporter.finished(news, self.done, self.total)
        if news.status == "refused" and not any(outcome.kept for outcome in self.outcomes.values()):
            raise UserError(Problem(f"the first run is refused: {news.reason}", task["run"]))

    def _end(self, name: str, state: State, figure: float | None = None, **facts: Any) -> None:
        trial = self.kept.end(self.number[name], state, figure, **facts)
        self._ended.add(trial.number)
        self.reporter.tried(trial, self.done, self.total)

    def found(self, space: Sequence[Parameter]) -> Search:
        return Search(
            name=self.base.name,
            metric=self.compared.metric,
            figure=self.compared.name,
            better=self.compared.better,
            ratio=self.compared.ratio,
            seeds=self.seeds,
            steps=self.base.train.steps,
            space=space,
            trials=self.kept.every(),
            best=self.kept.best,
            importance=self.kept.importance(),
            floor=(self.floor or {}).get(self.compared.name),
            failed=self.failed,
        )


def mean_figure(figures: Sequence[float], ratio: bool) -> float:
    """Return the mean of figures, a geometric one with `ratio`; that of a 0 is 0."""
    if ratio:
        return math.exp(math.fsum(map(math.log, figures)) / len(figures)) if min(figures) > 0 else 0.0
    return math.fsum(figures) / len(figures)


def _spent(runs: Sequence[Outcome]) -> dict[str, Any]:
    return {"steps": sum(run.steps for run in runs), "seconds": round(sum(run.seconds for run in runs), 3)}


def _keep_best(home: Folder, recipe: Recipe, reporter: Reporter) -> str:
    """Write best.toml, and return its digest. One that somebody has changed is renamed and not lost."""
    path, text = home.path / BEST, recipe.as_toml()
    with written_in(home):
        there = path.read_bytes() if path.is_file() else None
        if there is not None and there != text.encode() and hashlib.sha256(there).hexdigest() != _digest(home):
            aside = set_aside(path)
            reporter.warn(f"{path} was changed, and is now {aside.name}")
        write_whole(path, text)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(home: Folder) -> str:
    """Return the digest of best.toml as it was written last, or nothing."""
    try:
        found = json.loads((home.path / RESULTS).read_text(encoding="utf-8"))
        return str(found["best_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
