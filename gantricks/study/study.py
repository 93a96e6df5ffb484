"""A study from a recipe to its table: planned, played by workers, and summarised."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from gantricks.study import power, variants
from gantricks.study.curves import averaged, late_gain
from gantricks.study.curves_picture import curves_picture
from gantricks.study.folder import DEFAULTS, FORMAT, Folder, Outcome, choose, written_in
from gantricks.study.forest import forest
from gantricks.study.playing import Figure, Playing, Reporter, conduct
from gantricks.study.pool import WORKER, threads_each
from gantricks.study.spread import Spread, read_spread
from gantricks.study.statistics import Adjust, require_scipy
from gantricks.study.table import (
    MARGIN,
    Rules,
    StudyDesign,
    Table,
    compare,
    correlation,
    pooled_spread,
    summarise,
    with_time,
)
from gantricks.study.variants import Base, Design, Mode, base
from gantricks.study.words import as_markdown, method, unsettled


def ablate(
    recipe: str | Path,
    *,
    mode: Mode = "leave-one-out",
    seeds: int = 5,
    design: StudyDesign = "independent",
    adjust: Adjust = "max-t",
    margin: float | None = None,
    spread: str | None = None,
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

    `design`: `paired` compares runs with one seed; `independent` counts all runs as independent, and plays the
    reference about √k times as often as each of the k others. `adjust`: how the number of comparisons is allowed for.
    `margin`: what counts as no effect, a share of figures that are always above 0 (0.1 when left out), or a difference
    of others. `spread`: how far runs are expected to differ by chance, for what is said before the first run (see
    `read_spread`).

    The same call continues a study that was stopped. `worker` is the command of a worker process. Returns the study's
    folder and its table, which is also written there. Raises UserError with everything that is wrong with the recipe,
    the metric or the folder; Interrupted, after the workers have saved their runs.
    """
    reporter = reporter or Reporter()
    opened = open_study(recipe, metric, figure, overrides, jobs, plugins)
    rules = rules_of(opened.compared, design, adjust, margin)
    expected = read_spread(spread, opened.compared, rules) if spread else None
    planned = variants.design(opened.base, mode, tricks, options)
    return compare_variants(
        opened, planned, mode, seeds, rules, expected, folder=folder, jobs=jobs, worker=worker, reporter=reporter
    )


def compare_variants(
    opened: Opened,
    planned: Design,
    mode: str,
    seeds: int,
    rules: Rules,
    expected: Spread | None,
    *,
    folder: Path | None,
    jobs: int,
    worker: Sequence[str],
    reporter: Reporter,
) -> tuple[Path, Table]:
    """Train the variants of a design, `seeds` runs each, and return the study's folder and its table.

    Raises UserError where the folder holds something else, and Interrupted.
    """
    numbers = tuple(opened.base.recipe.seed + i for i in range(seeds))
    definition = _definition(planned, mode, numbers, opened.compared, rules)
    home = choose(folder, f"{opened.base.recipe.name}-{mode}", definition)

    def end(playing: SharedSeeds) -> Table:
        table = playing.table(opened.base.recipe.name, mode)
        write_table(home, table)
        return table

    table = conduct(
        home,
        lambda: begin(home, planned.possible, definition, opened.threads),
        lambda: SharedSeeds(
            home, planned, numbers, opened.compared, opened.plugins, reporter, rules=rules, expected=expected
        ),
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
    require_scipy()
    files = tuple(path.absolute() for path in plugins)
    registry = Registry(files)
    file = read_recipe(recipe)
    plan, _ = plan_recipe(file, overrides, registry)
    compared, added = _compared(plan, registry, metric, figure)
    begun = base(file, [*added, *overrides], registry, plan.recipe.train.steps)
    return Opened(begun, compared, files, threads_each(jobs, plan.description.is_images))


def rules_of(compared: Figure, design: StudyDesign, adjust: Adjust, margin: float | None) -> Rules:
    """Return the rules by which a study compares a figure."""
    if margin is None and compared.ratio:
        margin = MARGIN
    return Rules(compared.better, "log" if compared.ratio else "raw", design, adjust, margin)


class SharedSeeds(Playing):
    """The runs of a study whose variants share their seeds; where these are independent, the reference has more."""

    def __init__(
        self,
        home: Folder,
        planned: Design,
        seeds: tuple[int, ...],
        compared: Figure,
        plugins: Sequence[Path],
        reporter: Reporter,
        *,
        rules: Rules,
        expected: Spread | None = None,
        slim: bool = False,
    ) -> None:
        self.design, self.seeds, self.rules = planned, seeds, rules
        reference = planned.reference.name
        self.others = len(planned.possible) - 1
        control = power.control_runs(len(seeds), self.others, rules.paired)
        more = tuple(seeds[-1] + i for i in range(1, 1 + control - len(seeds)))
        # all variants of one seed before the next seed, so that most pairs are complete whenever the study is stopped
        every = [(variant, seed) for seed in seeds for variant in planned.possible]
        every += [(reference, seed) for seed in more]
        super().__init__(
            home, every, planned.possible[reference], compared, plugins, reporter, reference=reference, slim=slim
        )
        played = {name: seeds + more if name == reference else seeds for name in planned.possible}
        reporter.planned(home.path, planned, played, len(self.outcomes))
        if self.left:
            reporter.foreseen(self._foresight(expected))

    def _foresight(self, expected: Spread | None) -> str:
        rules, outcomes = self._compared()
        means = [summarise(name, found, rules.logs) for name, found in outcomes.items()]
        if expected is None and (measured := pooled_spread(means)):
            expected = Spread(measured, "measured in the runs that are finished")
        return power.foresight(len(self.seeds), self.others, rules, expected)

    def _compared(self) -> tuple[Rules, dict[str, dict[int, Outcome]]]:
        """Return the outcomes by variant and seed, and the rules for their figures: a figure of 0 has no ratios."""
        found: dict[str, dict[int, Outcome]] = {variant: {} for variant in self.design.possible}
        for (variant, seed), outcome in self.outcomes.items():
            found[variant][seed] = outcome
        if self.rules.logs and any(o.value is not None and o.value <= 0 for o in self.outcomes.values()):
            return replace(self.rules, scale="raw", margin=None), found
        return self.rules, found

    def table(self, name: str, mode: str) -> Table:
        rules, outcomes = self._compared()
        reference, compared = self.design.reference.name, self.compared
        steps = self.design.possible[reference].train.steps
        curves = {
            variant: {
                seed: points
                for seed, outcome in found.items()
                if outcome.status == "done" and (points := dict(outcome.curve))
            }
            for variant, found in outcomes.items()
        }
        means = {v: averaged([*runs.values()], rules.logs) for v, runs in curves.items() if runs}
        gain = late_gain(means[reference], rules.better, steps) if reference in means else 0.0
        still = unsettled(reference, gain)
        seen = means[reference].steps[-1] if reference in means else steps
        single, double = (
            compare([c for c in self.design.contrasts if c.interaction == interaction], outcomes, rules, still)
            for interaction in (False, True)
        )
        rows = tuple(summarise(variant, found, rules.logs) for variant, found in outcomes.items())
        alike = correlation(self.design.contrasts, outcomes, rules)
        spread = pooled_spread(rows)
        fallen = self.rules.logs and not rules.logs
        notes = (
            *([f"{compared.name} is 0 in some run, so differences are compared and no ratios"] if fallen else []),
            *([still] if still else []),
        )
        return Table(
            name=name,
            mode=mode,
            metric=compared.metric,
            figure=compared.name,
            better=compared.better,
            steps=steps,
            seeds=self.seeds,
            floor=(self.floor or {}).get(compared.name),
            means=rows,
            comparisons=tuple(with_time(single, outcomes, curves, seen, rules)),
            interactions=tuple(double),
            impossible={v.name: v.impossible for v in self.design.variants if v.impossible},
            failed=self.failed,
            runs=len(self.outcomes),
            seconds=self.seconds,
            floors=self.floor or {},
            scale=rules.scale,
            design=rules.design,
            adjust=rules.adjust,
            margin=rules.margin,
            method=method(rules, len(single), len(double), mode),
            correlation=alike,
            visible=power.visible_effect(len(self.seeds), self.others, rules, spread, alike) if spread else None,
            curves=means,
            notes=notes,
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
        name, figures, ratios = metric or "", found.figures, found.ratios  # type: ignore[attr-defined]
    else:
        name, figures, ratios = chosen.name, chosen.metric.figures, chosen.metric.ratios
    if chosen is None or added:
        added = [f"evaluate.{name}={{}}", *added]
    figure = figure or next(iter(figures))
    if figure not in figures:
        hint = nearest(figure, figures) or f"it has: {', '.join(figures)}"
        raise UserError(Problem(f"the metric {name!r} has no figure {figure!r}", f"--figure {figure}", hint))
    return Figure(name, figure, figures[figure], figure in ratios), added


def _definition(planned: Design, mode: str, seeds: Sequence[int], compared: Figure, rules: Rules) -> dict[str, Any]:
    """Return the facts that distinguish this study from others."""
    return {
        "mode": mode,
        "metric": compared.metric,
        "figure": compared.name,
        **asdict(rules),
        "seeds": [*seeds],
        "steps": planned.possible[planned.reference.name].train.steps,
        "reference": planned.reference.name,
        "variants": {
            variant.name: {"impossible": variant.impossible} if variant.recipe is None else written(variant.recipe)
            for variant in planned.variants
        },
    }


def written(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe, its options that have their default, and the files of its tricks, for a study's definition."""
    files = {trick.name: trick.found.origin for trick in recipe.tricks if " sha256:" in trick.found.origin}
    chosen, everything = recipe.as_dict(defaults=False), recipe.as_dict()
    parts = {"recipe": chosen, DEFAULTS: _without(everything, chosen), "files": files}
    return {key: portable(part) for key, part in parts.items()}


def _without(plain: Mapping[str, Any], left_out: Mapping[str, Any]) -> dict[str, Any]:
    """Return `plain` without the keys of `left_out`, at any depth."""
    tables = {key: _without(plain[key], left_out[key]) for key in left_out if isinstance(plain[key], Mapping)}
    rest = {key: value for key, value in plain.items() if key not in left_out} | tables
    return {key: rest[key] for key in plain if key in rest and rest[key] != {}}


def portable(plain: Any) -> Any:
    """Return plain data with the names of files in place of absolute paths: the machine that goes on with a study may
    have them elsewhere.
    """
    if isinstance(plain, dict):
        return {key: portable(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [portable(value) for value in plain]
    if isinstance(plain, str):
        path, mark, digest = plain.partition(" sha256:")
        return Path(path).name + mark + digest if Path(path).is_absolute() else plain
    return plain


def begin(home: Folder, recipes: Mapping[str, Recipe], definition: Mapping[str, Any], threads: int) -> Iterator[str]:
    """Write the plan of a study, unless it is written. Yields a sentence for each change since then."""
    now = versions() | {"threads": threads}
    study = home.study()
    texts = {name: recipe.as_toml() for name, recipe in recipes.items()}
    if study is None:
        argv = [Path(sys.argv[0]).name, *sys.argv[1:]]
        home.write({"format": FORMAT, "argv": argv, **now, "definition": definition}, texts)
        return
    home.write_recipes(texts)
    for fact, value in now.items():
        if study.get(fact) != value:
            was = study.get(fact)
            yield f"the study began with {fact} {was} and goes on with {value}; its pairs may differ by that"


def write_table(home: Folder, table: Table) -> None:
    """Write the results of a study with a table, and the picture of its curves where it has some."""
    write_results(home, table.as_dict(), as_markdown(table), forest(table))
    if table.curves:
        with written_in(home):
            save_png(curves_picture(table), home.path / "curves.png")


def write_results(home: Folder, facts: Mapping[str, Any], text: str, picture: Image) -> None:
    """Write results.json, results.md and results.png. Raises UserError where the disk refuses."""
    with written_in(home):
        write_whole(home.path / "results.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        write_whole(home.path / "results.md", text)
        save_png(picture, home.path / "results.png")
