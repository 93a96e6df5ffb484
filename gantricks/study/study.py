"""A study from a recipe to its table: planned, played by workers, and summarised."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantricks.catalogue.registry import Registry
from gantricks.errors import Problem, UserError, nearest
from gantricks.files import write_whole
from gantricks.pictures import save_png
from gantricks.planning.plan import Plan
from gantricks.planning.prepare import plan_recipe
from gantricks.planning.recipe_files import read_recipe
from gantricks.runs import signals
from gantricks.runs.manifest import versions
from gantricks.study.folder import FORMAT, Folder, Outcome, choose, locked, read_outcome
from gantricks.study.forest import forest
from gantricks.study.pool import WORKER, Pool, Task, threads_each
from gantricks.study.table import Table, compare, summarise
from gantricks.study.variants import Design, Mode, base, design
from gantricks.study.words import as_markdown


class Reporter:
    """Listens to a study, to show its progress. The methods of this base class do nothing; override those you need."""

    def planned(self, folder: Path, design: Design, seeds: Sequence[int], done: int) -> None:
        """The variants are known. `done` runs were finished before."""

    def stepped(self, runs: int, steps: float) -> None:
        """`runs` runs are finished; the steps of the others add up to `steps` more runs."""

    def finished(self, outcome: Outcome, done: int, total: int) -> None:
        """A run has ended."""

    def warn(self, sentence: str) -> None:
        """Something has happened that the user should know."""

    def close(self) -> None:
        """The last run has ended, for whatever reason."""


class Interrupted(BaseException):
    """A signal (`number`) has ended a study. `done` of `total` runs are finished."""

    def __init__(self, number: int, done: int, total: int) -> None:
        super().__init__(number)
        self.number, self.done, self.total = number, done, total


@dataclass(frozen=True)
class Figure:
    """The compared figure: the metric, the name of the figure, and its better direction."""

    metric: str
    name: str
    better: str


def ablate(
    recipe: str | Path,
    *,
    mode: Mode = "leave-one-out",
    seeds: int = 5,
    metric: str | None = None,
    figure: str | None = None,
    tricks: Sequence[str] = (),
    options: Sequence[str] = (),
    overrides: Sequence[str] = (),
    jobs: int = 1,
    folder: Path | None = None,
    plugins: Sequence[Path] = (),
    reporter: Reporter | None = None,
    worker: Sequence[str] = WORKER,
) -> tuple[Path, Table]:
    """Train the variants of a recipe, `seeds` runs each, and compare a figure of a metric.

    The same call continues a study that was stopped. `worker` is the command of a worker process. Returns the study's
    folder and its table, which is also written there. Raises UserError with everything that is wrong with the recipe,
    the metric or the folder; Interrupted, after the workers have saved their runs.
    """
    reporter = reporter or Reporter()
    files = [path.absolute() for path in plugins]
    registry = Registry(files)
    file = read_recipe(recipe)
    plan, _ = plan_recipe(file, overrides, registry)
    compared, added = _compared(plan, registry, metric, figure)
    begun = base(file, [*added, *overrides], registry, plan.recipe.train.steps)
    threads = threads_each(jobs, plan.description.is_images)
    planned = design(begun, mode, tricks, options)
    numbers = tuple(plan.recipe.seed + i for i in range(seeds))
    definition = _definition(planned, mode, numbers, compared)
    home = choose(folder, f"{plan.recipe.name}-{mode}", definition)
    with signals.heard() as ending, locked(home) as descriptors:
        for sentence in _begin(home, planned, definition, threads):
            reporter.warn(sentence)
        playing = _Playing(home, planned, numbers, compared, files, reporter)
        try:
            if playing.left:
                with Pool(min(jobs, len(playing.left)), threads, worker, descriptors) as pool:
                    playing.play(pool)
        except (KeyboardInterrupt, SystemExit):
            if ending.number is None:
                raise
            raise Interrupted(ending.number, len(playing.outcomes), playing.total) from None
        finally:
            reporter.close()
        table = playing.table(plan.recipe.name, mode)
        _write(home, table)
    return home.path, table


class _Playing:
    """The runs of a study: those with an outcome, and those that are left."""

    def __init__(
        self,
        home: Folder,
        planned: Design,
        seeds: tuple[int, ...],
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
    ) -> None:
        self.home, self.design, self.seeds, self.compared = home, planned, seeds, compared
        self.plugins, self.reporter = [str(path) for path in plugins], reporter
        self.device = planned.possible[planned.reference.name].train.device
        # all variants of one seed before the next seed, so that most pairs are complete whenever the study is stopped
        every = [(variant, seed) for seed in seeds for variant in planned.possible]
        found = {run: read_outcome(home.run(*run), run) for run in every}
        self.outcomes = {run: outcome for run, outcome in found.items() if outcome}
        self.left = [run for run in every if not found[run]]
        self.total = len(every)
        self._floor_asked = self.floor is not None
        reporter.planned(home.path, planned, seeds, len(self.outcomes))

    @property
    def floor(self) -> dict[str, float | None] | None:
        """The metric's figures of real samples, from the first run that measured them."""
        return next((outcome.floor for outcome in self.outcomes.values() if outcome.floor), None)

    def play(self, pool: Pool) -> None:
        """Play the runs that are left. Raises UserError when the reference is refused, since nothing can be compared
        with it.
        """
        shares: dict[tuple[str, int], float] = {}
        left = deque(self.left)

        def next_task() -> Task | None:
            if not left:
                return None
            variant, seed = left.popleft()
            asked, self._floor_asked = not self._floor_asked, True
            return {
                "run": str(self.home.run(variant, seed).absolute()),
                "recipe": str(self.home.recipe(variant).absolute()),
                "variant": variant,
                "seed": seed,
                "metric": self.compared.metric,
                "figure": self.compared.name,
                "floor": asked,
                "device": self.device,
                "plugins": self.plugins,
            }

        for task, news in pool.play(next_task):
            run = task["variant"], task["seed"]
            if isinstance(news, int):
                shares[run] = news / self.design.possible[run[0]].train.steps
            else:
                shares.pop(run, None)
                self.outcomes[run] = news
                if task["floor"] and not news.floor and news.status != "done":
                    self._floor_asked = False  # the next run measures it instead
                self.reporter.finished(news, len(self.outcomes), self.total)
                if news.status == "refused" and run[0] == self.design.reference.name:
                    raise UserError(Problem(f"a run of the recipe itself is refused: {news.reason}", task["run"]))
            self.reporter.stepped(len(self.outcomes), sum(shares.values()))

    def table(self, name: str, mode: str) -> Table:
        by_variant: dict[str, dict[int, Outcome]] = {variant: {} for variant in self.design.possible}
        for (variant, seed), outcome in self.outcomes.items():
            by_variant[variant][seed] = outcome
        single, double = (
            compare(
                [contrast for contrast in self.design.contrasts if contrast.interaction == interaction],
                by_variant,
                self.seeds,
                self.compared.better,
            )
            for interaction in (False, True)
        )
        broken = [outcome for outcome in self.outcomes.values() if not outcome.kept]
        return Table(
            name=name,
            mode=mode,
            metric=self.compared.metric,
            figure=self.compared.name,
            better=self.compared.better,
            steps=self.design.possible[self.design.reference.name].train.steps,
            seeds=self.seeds,
            floor=(self.floor or {}).get(self.compared.name),
            means=tuple(summarise(variant, found) for variant, found in by_variant.items()),
            comparisons=tuple(single),
            interactions=tuple(double),
            impossible={v.name: v.impossible for v in self.design.variants if v.impossible},
            failed={f"{outcome.variant} seed {outcome.seed}": outcome.reason for outcome in broken},
            runs=len(self.outcomes),
            seconds=round(sum(outcome.seconds for outcome in self.outcomes.values()), 1),
            floors=self.floor or {},
        )


def _compared(plan: Plan, registry: Registry, metric: str | None, figure: str | None) -> tuple[Figure, list[str]]:
    """Return the compared figure, and overrides that put its metric into the recipe, so that it is checked there.

    Raises UserError when the metric does not exist or has no such figure.
    """
    chosen = next((planned for planned in plan.metrics if planned.name == metric or metric is None), None)
    added = []
    if chosen is None and metric is None:
        from gantricks.runs.evaluation import default_metrics

        chosen = next(iter(default_metrics(plan, registry)), None)
        if chosen is None:
            raise UserError(Problem("which metric is to be compared? None is known to suit the data", "--metric NAME"))
        options = chosen.metric.config.model_dump(mode="json", exclude_none=True)
        added = [f"evaluate.{chosen.name}.{key}={json.dumps(value)}" for key, value in options.items()]
    if chosen is None:
        found = registry.load("metrics", metric or "").cls
        name, figures = metric or "", found.figures  # type: ignore[attr-defined]
    else:
        name, figures = chosen.name, chosen.metric.figures
    if chosen is None or added:
        added = [f"evaluate.{name}={{}}", *added]
    figure = figure or next(iter(figures))
    if figure not in figures:
        hint = nearest(figure, figures) or f"it has: {', '.join(figures)}"
        raise UserError(Problem(f"the metric {name!r} has no figure {figure!r}", f"--figure {figure}", hint))
    return Figure(name, figure, figures[figure]), added


def _definition(planned: Design, mode: Mode, seeds: Sequence[int], compared: Figure) -> dict[str, Any]:
    """Return the facts that distinguish this study from others."""
    return {
        "mode": mode,
        "metric": compared.metric,
        "figure": compared.name,
        "better": compared.better,
        "seeds": [*seeds],
        "steps": planned.possible[planned.reference.name].train.steps,
        "reference": planned.reference.name,
        "variants": {
            variant.name: {"impossible": variant.impossible}
            if variant.recipe is None
            else {
                "recipe": variant.recipe.as_dict(),
                "files": {t.name: t.found.origin for t in variant.recipe.tricks if " sha256:" in t.found.origin},
            }
            for variant in planned.variants
        },
    }


def _begin(home: Folder, planned: Design, definition: Mapping[str, Any], threads: int) -> Iterator[str]:
    """Write the plan of the study, unless it is written. Yields a sentence for each change since then."""
    now = versions() | {"threads": threads}
    study = home.study()
    if study is None:
        recipes = {name: recipe.as_toml() for name, recipe in planned.possible.items()}
        home.write({"format": FORMAT, "argv": sys.argv, **now, "definition": definition}, recipes)
        return
    for fact, value in now.items():
        if study.get(fact) != value:
            was = study.get(fact)
            yield f"the study began with {fact} {was} and goes on with {value}; its pairs may differ by that"


def _write(home: Folder, table: Table) -> None:
    try:
        write_whole(home.path / "results.json", json.dumps(table.as_dict(), indent=1, ensure_ascii=False) + "\n")
        write_whole(home.path / "results.md", as_markdown(table))
        save_png(forest(table), home.path / "results.png")
    except OSError as error:
        raise UserError(
            Problem(
                f"the study's results cannot be written: {error.strerror}",
                str(error.filename or home.path),
                "its runs are kept: give the same command again",
            )
        ) from error
