"""Evaluates a checkpoint of a run with its recipe's metrics, or with others. Nothing is written into the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantricks.catalogue.index import index
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Progress, silent
from gantricks.engine.subject import GameSubject
from gantricks.errors import Problem, UserError, nearest
from gantricks.metrics import published
from gantricks.metrics.base import SEED, Direction, Measurement, obstacles
from gantricks.option_errors import check_options
from gantricks.planning.facts import PlannedMetric
from gantricks.planning.measured import at_options, suitable
from gantricks.planning.plan import Plan, on_data
from gantricks.runs.opening import open_run


@dataclass(frozen=True)
class Evaluated:
    """The result of one metric.

    `metric` is the name of the instance, `use` that of the metric. `better` gives the better direction of each figure;
    the first figure is the main one. `floor` holds the same figures for real samples, None where they have no meaning
    or were not asked for. `seconds` is the time that both took, `step` the step of the checkpoint.
    """

    metric: str
    use: str
    measurement: Measurement
    floor: Measurement | None
    better: Mapping[str, Direction]
    seconds: float
    step: int


def evaluate(
    run: str | Path,
    metrics: Sequence[str] = (),
    *,
    samples: int | None = None,
    seed: int = SEED,
    step: int | None = None,
    floor: bool = True,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda sentence: None,
) -> list[Evaluated]:
    """Measure a run at its newest checkpoint, or at the one at `step`.

    `metrics` name instances of the recipe, or any metric at its defaults. Without them, all metrics of the recipe are
    measured, and where it has none, those that suit its data. `samples` replaces the recipe's number. `overrides`,
    `KEY=VALUE` strings, replace its keys in [evaluate], in [data], as long as samples and classes keep their form, and
    of tricks that act on samples alone.
    The same arguments give the same figures. `warn` is called with sentences about problems that do not stop the
    evaluation. Raises UserError with every problem that does, before anything is generated.
    """
    ours = [override for override in overrides if override.startswith(("evaluate.", "data.", "tricks."))]
    what = (
        "a run is measured as it was trained: only keys of [evaluate] can be set, of tricks that act on samples alone, "
        "and of [data] to say where it is now"
    )
    problems = [Problem(what, f"--set {one}", "such as evaluate.samples=10000") for one in overrides if one not in ours]
    try:
        view = open_run(Path(run), plugins).view(device, ours)
    except UserError as error:
        raise UserError(*problems, *error.problems) from None
    plan, chosen = view.plan, []
    try:
        plan = on_data(plan, view.describe())
    except UserError as error:
        problems += error.problems
    if samples is not None:
        plan = replace(plan, facts=replace(plan.facts, samples=samples))
    try:
        chosen = _chosen(plan, view.run.registry, metrics, warn)
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(*problems)
    dataset = plan.source.load(progress)
    game = replace(view, plan=plan).game(step, dataset)
    if changed := view.other_data(dataset, plan.description):
        warn(changed)
    # one subject for all metrics, so that they share what is computed from it
    subject = GameSubject(game, plan.facts.samples, seed, progress, dataset)
    with game.placement.computing():  # as in training, because the number of threads changes the last bits
        return [_evaluated(planned, subject, floor, game.finished) for planned in chosen]


def default_metrics(plan: Plan, registry: Registry) -> list[PlannedMetric]:
    """Return the metrics that suit the data of a recipe that names none."""
    return suitable(plan.facts.provided, registry)


def _chosen(plan: Plan, registry: Registry, names: Sequence[str], warn: Callable[[str], None]) -> list[PlannedMetric]:
    """Return the metrics to measure. Raises UserError where one that was asked for cannot be measured, or none can."""
    problems: list[Problem] = []
    asked_for = list(_named(plan, registry, names, problems)) if names else list(plan.metrics)
    chosen = asked_for or ([] if problems else default_metrics(plan, registry))
    measurable = []
    for planned in chosen:
        found = obstacles(planned.metric, plan.facts)
        problems += [Problem(f"{planned.name}: {why}", planned.place) for why in found]
        if not found:
            measurable.append(planned)
    if not chosen and not problems:
        known = ", ".join(sorted(registry.names("metrics")))
        what = "the recipe has no metrics, and none is known to suit its data"
        problems.append(Problem(what, plan.recipe.places.file, f"name one with --metric: {known}"))
    if problems and (asked_for or not measurable):
        raise UserError(*problems)
    for problem in problems:  # these are defaults: one that cannot be measured does not stop the others
        warn(f"left out, {problem.what}")
    return measurable


def _named(plan: Plan, registry: Registry, names: Sequence[str], problems: list[Problem]) -> Iterator[PlannedMetric]:
    instances = {planned.name: planned for planned in plan.metrics}
    known = registry.names("metrics")
    for name in dict.fromkeys(names):
        where = f"--metric {name}"
        if name in instances:
            yield replace(instances[name], place=where)
            continue
        if name not in known:
            there = [*instances, *(other for other in sorted(known) if other not in instances)]
            hint = published.advice(name, index()["metrics"]) or nearest(name, there)
            hint = hint or f"there are: {', '.join(there)}"
            problems.append(Problem(f"neither the recipe nor gantricks has a metric {name!r}", where, hint))
            continue
        found = registry.load("metrics", name)
        wrong = list(check_options(found.cls.Config, {}))  # type: ignore[attr-defined]
        for keys, what, hint in wrong:
            problems.append(Problem(f"{'.'.join(keys)}: {what}", where, f"write [evaluate.{name}] in a recipe; {hint}"))
        if not wrong:
            yield at_options(found, {}, where)


def _evaluated(planned: PlannedMetric, subject: GameSubject, floor: bool, step: int) -> Evaluated:
    began, metric = time.perf_counter(), planned.metric
    measurement = metric.measure(subject)
    real = metric.floor(subject) if floor else None
    seconds = time.perf_counter() - began
    return Evaluated(planned.name, planned.use, measurement, real, metric.figures, seconds, step)
