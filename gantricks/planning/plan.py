"""From a recipe to a plan: which trick acts on which hook, in which order, and everything that cannot work together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pluggy

from gantricks.data.base import Description, Source
from gantricks.errors import Problem, TrickError, UserError
from gantricks.hooks import KINDS, HookSpecs
from gantricks.metrics.base import EvaluationFacts
from gantricks.planning import checks
from gantricks.planning.facts import Facts, PlannedMetric, PlannedTrick, group, parameters
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import Places

if TYPE_CHECKING:
    from gantricks.engine.context import Context
    from gantricks.networks.base import Shapes

HookTuple = tuple[tuple[Callable[..., Any], "Context"], ...]


@dataclass(frozen=True)
class Plan:
    """A recipe whose tricks are known to fit together. `on` lists, for each hook in use, the tricks on it in order;
    `facts` are what `metrics` can know of it.
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
        """How many samples D judges at once."""
        return group(self.tricks)

    def parameters(self) -> dict[str, int]:
        """How many parameters each network has before any trick's surgery; nothing is allocated."""
        return parameters(self.recipe, self.shapes)

    @property
    def multiply_adds(self) -> int | None:
        """How many multiply–adds the larger network's pass over a batch takes: one for each weight and sample. None
        with convolutions, which use a weight many times.
        """
        return None if self.convolutions else max(self.parameters().values()) * self.recipe.data.keys.batch_size

    def any_trick(self, fact: str, value: str) -> bool:
        """Whether any trick's `needs`, `provides` or `replaces` (`fact`) holds `value`."""
        return any(value in getattr(planned.trick, fact) for planned in self.tricks)


class Hooks:
    """Every hook of one run, frozen: an attribute per hook, a tuple of (function, context) in recipe order."""

    def __init__(self, **implementations: HookTuple) -> None:
        for hook in KINDS:
            setattr(self, hook, implementations.get(hook, ()))

    if TYPE_CHECKING:

        def __getattr__(self, hook: str) -> HookTuple: ...


def make_plan(
    recipe: Recipe, warnings: Collection[str] = (), *, to_train: bool = True, trained: Description | None = None
) -> Plan:
    """Instantiate the recipe's tricks and metrics and check everything that can be known before a tensor exists.

    A run that is only to be looked at (`to_train` is false) is not refused for a metric that nobody asks for. `trained`
    describes the data that a run was trained on, in place of the source, which is not asked then. Raises UserError with
    every problem found.
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
    facts = None
    try:
        facts = Facts(recipe, source, trained or describe(source, places), tricks, metrics)
    except UserError as error:
        problems += error.problems
    on = checks.hooks_in_use(tricks)
    problems += checks.of_tricks(tricks, on, places)
    if facts:
        problems += checks.of_parts(facts, to_train)
        if not problems:
            problems += checks.memory(facts, to_train)
    problems += checks.conflicts(tricks, places, facts.provided if facts else ())
    if problems or not facts:
        raise UserError(*problems)
    notes = [f"[data]: {note}" for note in facts.description.notes]
    warnings = (*warnings, *notes, *checks.cautions(tricks, facts.provided))
    return Plan(recipe, source, facts.description, facts.shapes, tricks, on, metrics, facts.evaluation, tuple(warnings))


def describe(source: Source, places: Places) -> Description:
    """What the source says of its data. Raises UserError, with the key of the recipe that says where the data is."""
    try:
        return source.describe()
    except UserError as error:
        place = places.of_any(*(("data", key) for key in source.paths[:1]), ("data", "source"))
        problems = [Problem(p.what, f"{place}: {p.where}".rstrip(": "), p.hint) for p in error.problems]
        raise UserError(*problems) from error


def on_data(plan: Plan, description: Description) -> Plan:
    """The plan of a run that is to be measured on this data. Raises UserError where samples or classes are not of the
    form of those that the run was trained on."""
    trained, problems = plan.description, []
    where = plan.recipe.places.of("data", *plan.source.paths[:1])
    if description.shape != trained.shape:
        what = f"the samples are {_size(description)}, and the run was trained on {_size(trained)}"
        problems.append(Problem(what, where, "set the keys of [data] so that they are the same"))
    if description.classes != trained.classes:
        what = f"the data has {description.classes} classes, and the run was trained on {trained.classes}"
        problems.append(Problem(what, where, "set the keys of [data] to data with as many classes"))
    if problems:
        raise UserError(*problems)
    provided = (plan.facts.provided - {"held_out"}) | ({"held_out"} if description.held_out else set())
    return replace(plan, description=description, facts=replace(plan.facts, description=description, provided=provided))


def _size(description: Description) -> str:
    return " × ".join(map(str, description.shape))


def freeze(tricks: Collection[PlannedTrick], contexts: dict[str, Context]) -> Hooks:
    """Register the tricks with pluggy, which validates them against the specs, and freeze each hook to a plain tuple.

    pluggy's own calls run last registered first, drop None and cannot feed one result to the next, so they are used
    for the contract and not for the calls.
    """
    manager = pluggy.PluginManager("gantricks")
    manager.add_hookspecs(HookSpecs)
    for planned in tricks:
        manager.register(planned.trick, planned.name)
    manager.check_pending()
    hooks: dict[str, HookTuple] = {}
    order = {planned.name: position for position, planned in enumerate(tricks)}
    for hook in KINDS:
        specified = tuple(inspect.signature(getattr(HookSpecs, hook)).parameters)[1:]
        implementations = sorted(getattr(manager.hook, hook).get_hookimpls(), key=lambda i: order[i.plugin_name])
        hooks[hook] = tuple(
            (_with_all_arguments(i.function, i.argnames, specified), contexts[i.plugin_name]) for i in implementations
        )
    return Hooks(**hooks)


def _with_all_arguments(
    function: Callable[..., Any], taken: Collection[str], specified: tuple[str, ...]
) -> Callable[..., Any]:
    """`function` itself when it takes every argument in order, otherwise a version that passes on those it takes."""
    if tuple(taken) == specified:
        return function
    positions = [specified.index(name) for name in taken]

    def adapted(*arguments: Any) -> Any:
        return function(*(arguments[position] for position in positions))

    adapted.__name__ = function.__name__
    return adapted


def notify(hooks: HookTuple) -> None:
    """Run an event."""
    for hook, ctx in hooks:
        hook(ctx)


def fold(hooks: HookTuple, value: Any, *about: Any) -> Any:
    """Hand a value through every trick in recipe order."""
    for hook, ctx in hooks:
        value = hook(value, *about, ctx) if about else hook(value, ctx)  # unpacking nothing doubles a call's time
        if value is None:
            raise TrickError(
                f"{ctx.name}: {hook.__name__} returned None; a fold returns the value it was given, or another"
            )
    return value
