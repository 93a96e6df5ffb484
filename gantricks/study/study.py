"""A study from a recipe to its table: planned, played by workers, and summarised."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from gantricks.catalogue.registry import Registry
from gantricks.errors import Problem, UserError, nearest
from gantricks.files import write_whole
from gantricks.pictures import save_png
from gantricks.planning.plan import Plan
from gantricks.planning.prepare import plan_recipe
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import read_recipe
from gantricks.runs.manifest import versions
from gantricks.study.folder import FORMAT, Folder, Outcome, choose
from gantricks.study.forest import forest
from gantricks.study.playing import Figure, Playing, Reporter, conduct
from gantricks.study.pool import WORKER, threads_each
from gantricks.study.table import Table, compare, summarise
from gantricks.study.variants import Base, Design, Mode, base, design
from gantricks.study.words import as_markdown


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
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    planned = design(opened.base, mode, tricks, options)
    numbers = tuple(opened.base.recipe.seed + i for i in range(seeds))
    definition = _definition(planned, mode, numbers, opened.compared)
    home = choose(folder, f"{opened.base.recipe.name}-{mode}", definition)

    def end(playing: SharedSeeds) -> Table:
        table = playing.table(opened.base.recipe.name, mode)
        write_results(home, table.as_dict(), as_markdown(table), forest(table))
        return table

    table = conduct(
        home,
        lambda: begin(home, planned.possible, definition, opened.threads),
        lambda: SharedSeeds(home, planned, numbers, opened.compared, opened.plugins, reporter),
        end,
        jobs=jobs,
        threads=opened.threads,
        worker=worker,
        reporter=reporter,
    )
    return home.path, table


@dataclass(frozen=True)
class Opened:
    """A recipe that a study can begin with: its plan for a study, the compared figure, the files of its plugins, and
    the number of threads of a worker.
    """

    base: Base
    compared: Figure
    plugins: tuple[Path, ...]
    threads: int


def open_study(
    recipe: str | Path,
    metric: str | None,
    figure: str | None,
    overrides: Sequence[str],
    jobs: int,
    plugins: Sequence[Path],
) -> Opened:
    """Read and check the recipe of a study. Raises UserError with everything that is wrong with it."""
    files = tuple(path.absolute() for path in plugins)
    registry = Registry(files)
    file = read_recipe(recipe)
    plan, _ = plan_recipe(file, overrides, registry)
    compared, added = _compared(plan, registry, metric, figure)
    begun = base(file, [*added, *overrides], registry, plan.recipe.train.steps)
    return Opened(begun, compared, files, threads_each(jobs, plan.description.is_images))


class SharedSeeds(Playing):
    """The runs of a study whose variants share their seeds."""

    def __init__(
        self,
        home: Folder,
        planned: Design,
        seeds: tuple[int, ...],
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
        *,
        slim: bool = False,
    ) -> None:
        self.design, self.seeds = planned, seeds
        reference = planned.reference.name
        # all variants of one seed before the next seed, so that most pairs are complete whenever the study is stopped
        every = [(variant, seed) for seed in seeds for variant in planned.possible]
        super().__init__(
            home, every, planned.possible[reference], compared, plugins, reporter, reference=reference, slim=slim
        )
        reporter.planned(home.path, planned, seeds, len(self.outcomes))

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
            failed=self.failed,
            runs=len(self.outcomes),
            seconds=self.seconds,
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
            variant.name: {"impossible": variant.impossible} if variant.recipe is None else written(variant.recipe)
            for variant in planned.variants
        },
    }


def written(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe and the files of its tricks, for the definition of a study."""
    files = {trick.name: trick.found.origin for trick in recipe.tricks if " sha256:" in trick.found.origin}
    return {"recipe": recipe.as_dict(), "files": files}


def begin(home: Folder, recipes: Mapping[str, Recipe], definition: Mapping[str, Any], threads: int) -> Iterator[str]:
    """Write the plan of a study, unless it is written. Yields a sentence for each change since then."""
    now = versions() | {"threads": threads}
    study = home.study()
    if study is None:
        texts = {name: recipe.as_toml() for name, recipe in recipes.items()}
        home.write({"format": FORMAT, "argv": sys.argv, **now, "definition": definition}, texts)
        return
    for fact, value in now.items():
        if study.get(fact) != value:
            was = study.get(fact)
            yield f"the study began with {fact} {was} and goes on with {value}; its pairs may differ by that"


def write_results(home: Folder, facts: Mapping[str, Any], text: str, picture: Image) -> None:
    """Write results.json, results.md and results.png. Raises UserError where the disk refuses."""
    try:
        write_whole(home.path / "results.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        write_whole(home.path / "results.md", text)
        save_png(picture, home.path / "results.png")
    except OSError as error:
        raise UserError(
            Problem(
                f"the study's results cannot be written: {error.strerror}",
                str(error.filename or home.path),
                "its runs are kept: give the same command again",
            )
        ) from error
