"""From a recipe to a plan: which tricks act on which hook, in which order, and every conflict between parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gantricks.data.base import Description, Source
from gantricks.errors import Problem, UserError
from gantricks.metrics.base import EvaluationFacts, compared
from gantricks.planning import checks
from gantricks.planning.facts import Facts, PlannedLogger, PlannedMetric, PlannedTrick, group, parameters
from gantricks.planning.measured import while_training
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import Places

if TYPE_CHECKING:
    from gantricks.networks.base import Shapes


@dataclass(frozen=True)
class Plan:
    """A recipe whose parts are known to fit together.

    `on` lists the tricks on each hook in use, in order. `facts` are the facts that metrics may use. `metrics` are those
    that the recipe names, `measured` those that are measured while it trains. `loggers` are there only to train.
    """

    recipe: Recipe
    source: Source
    description: Description
    shapes: Shapes
    tricks: tuple[PlannedTrick, ...]
    on: dict[str, tuple[str, ...]]
    metrics: tuple[PlannedMetric, ...]
    facts: EvaluationFacts
    warnings: tuple[str, ...] = ()
    measured: tuple[PlannedMetric, ...] = ()
    loggers: tuple[PlannedLogger, ...] = ()

    @property
    def convolutions(self) -> bool:
        """Whether both networks have convolutions."""
        parts = (("generator", self.recipe.generator), ("discriminator", self.recipe.discriminator))
        return all(
            "convolutions" in part.found.cls.capabilities(role, part.options, self.shapes)  # type: ignore[attr-defined]
            for role, part in parts
        )

    @property
    def group(self) -> int:
        """The number of samples that D judges at once."""
        return group(self.tricks)

    def parameters(self) -> dict[str, int]:
        """Return the number of parameters of each network before the tricks' surgery. Nothing is allocated."""
        return parameters(self.recipe, self.shapes)

    @property
    def multiply_adds(self) -> int | None:
        """Return the number of multiply-adds in the larger network's pass over a batch: one for each weight and sample.
        None with convolutions, which use a weight many times.
        """
        return None if self.convolutions else max(self.parameters().values()) * self.recipe.data.keys.batch_size

    def any_trick(self, fact: str, value: str) -> bool:
        """Return whether any trick's `needs`, `provides` or `replaces` (`fact`) contains `value`."""
        return any(value in getattr(planned.trick, fact) for planned in self.tricks)


def make_plan(
    recipe: Recipe,
    warnings: Collection[str] = (),
    *,
    to_train: bool = True,
    begins: bool = True,
    trained: Description | None = None,
) -> Plan:
    """Instantiate the recipe's tricks and metrics and check everything that can be known before a tensor exists.

    With `to_train` false, problems of metrics are ignored, since a run that is only sampled or measured may not use
    them, and no logger is made. `begins` is false where a run's state comes from a checkpoint. `trained` describes the
    data that a run was trained on; with it, the source is not asked. Raises UserError with every problem found.
    """
    places = recipe.places
    tricks = tuple(
        PlannedTrick(
            part.name, part.found.name, part.found.make(part.options), part.found.origin, places.of("tricks", part.name)
        )
        for part in recipe.tricks
    )
    metrics = tuple(
        PlannedMetric(part.name, part.found.name, part.found.make(part.options), places.of("evaluate", part.name))
        for part in recipe.metrics
    )
    source: Source = recipe.data.found.make(recipe.data.options)
    problems: list[Problem] = []
    loggers = tuple(_loggers(recipe, problems)) if to_train else ()
    facts = None
    measured: tuple[PlannedMetric, ...] = ()
    left_out: tuple[str, ...] = ()
    try:
        facts = Facts(recipe, source, trained or describe(source, places), tricks, metrics, begins)
    except UserError as error:
        problems += error.problems
    on = checks.hooks_in_use(tricks)
    problems += checks.of_tricks(tricks, on, places)
    if facts:
        problems += checks.of_parts(facts, to_train)
        try:
            measured, left_out = while_training(facts) if to_train else ((), ())
        except UserError as error:
            problems += error.problems
        if not problems:
            problems += checks.memory(facts, to_train)
    problems += checks.conflicts(tricks, places, facts.provided if facts else ())
    if problems or not facts:
        raise UserError(*problems)
    notes = [f"[data]: {note}" for note in facts.description.notes]
    warnings = (*warnings, *notes, *checks.cautions(tricks, facts.provided), *left_out)
    return Plan(
        recipe,
        source,
        facts.description,
        facts.shapes,
        tricks,
        on,
        metrics,
        facts.evaluation,
        warnings,
        measured,
        loggers,
    )


def _loggers(recipe: Recipe, problems: list[Problem]) -> Iterator[PlannedLogger]:
    """Yield the loggers of a recipe. What is wrong with the others is added to `problems`."""
    for part in recipe.loggers:
        try:
            yield PlannedLogger(part.name, part.found.name, part.found.make(part.options), part.found.origin)
        except UserError as error:
            problems += _placed(error, recipe.places.of("loggers", part.name))


def describe(source: Source, places: Places) -> Description:
    """Return the source's description of its data. Raises UserError, placed at the key of the recipe that says where
    the data is.
    """
    try:
        return source.describe()
    except UserError as error:
        place = places.of_any(*(("data", key) for key in source.paths[:1]), ("data", "source"))
        raise UserError(*_placed(error, place)) from error


def _placed(error: UserError, place: str) -> list[Problem]:
    """Return the problems of a part, with the place in the recipe that has led to it."""
    return [Problem(p.what, f"{place}: {p.where}".rstrip(": "), p.hint) for p in error.problems]


def on_data(plan: Plan, description: Description) -> Plan:
    """Return the plan of a run that is measured on this data.

    Raises UserError where samples or classes have another form than those that the run was trained on.
    """
    trained, problems = plan.description, []
    where = plan.recipe.places.of("data", *plan.source.paths[:1])
    if description.shape != trained.shape:
        what = f"the samples are {_size(description)}, and the run was trained on {_size(trained)}"
        problems.append(Problem(what, where, "set the keys of [data] so that they are the same"))
    if description.classes != trained.classes:
        what = f"the data has {description.classes} classes, and the run was trained on {trained.classes}"
        problems.append(Problem(what, where, "set the keys of [data] to data with as many classes"))
    problems += checks.held_out(plan.recipe, description)
    if problems:
        raise UserError(*problems)
    provided = (plan.facts.provided - {"held_out"}) | ({"held_out"} if description.held_out else set())
    facts = replace(plan.facts, description=compared(description, plan.facts.held_out), provided=frozenset(provided))
    return replace(plan, description=description, facts=facts)


def _size(description: Description) -> str:
    return " × ".join(map(str, description.shape))
