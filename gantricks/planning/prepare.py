"""From a recipe and a registry to a plan and a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantricks.catalogue.registry import Registry
from gantricks.data.base import Description
from gantricks.errors import Problem, UserError, legible, nearest
from gantricks.planning.checks import unknown_names
from gantricks.planning.device import Placement, place
from gantricks.planning.plan import Plan, make_plan
from gantricks.planning.recipe import Recipe, RecipeError
from gantricks.planning.recipe_files import NAME_IT_ANEW, RecipeFile
from gantricks.planning.validation import load_recipe
from gantricks.trick import CAPABILITIES


def plan_recipe(
    recipe: str | Path | RecipeFile, overrides: Iterable[str], registry: Registry
) -> tuple[Plan, Placement]:
    """Load a recipe and plan it.

    Raises UserError with every problem: those of the keys, and those of the parts that the valid keys name.
    """
    try:
        return prepare(load_recipe(recipe, overrides, registry), registry)
    except RecipeError as error:
        problems = list(error.problems)
        if error.rest:
            try:
                prepare(error.rest, registry)
            except UserError as further:
                problems += [problem for problem in further.problems if problem not in problems]
        raise UserError(*problems) from None


def prepare(
    recipe: Recipe,
    registry: Registry,
    *,
    to_train: bool = True,
    begins: bool = True,
    trained: Description | None = None,
) -> tuple[Plan, Placement]:
    """Return the plan of a recipe and its placement.

    `begins` is false where a run's state comes from a checkpoint. `trained` describes the data that a run was trained
    on, where no data is to be opened. Raises UserError with the problems of both.
    """
    problems = list(_unwritable(recipe)) if to_train else []
    plan = placement = None
    try:
        parts: list[Any] = [recipe.data, recipe.generator, recipe.discriminator]
        named = [part.found.name for part in [*parts, *recipe.tricks, *recipe.metrics, *recipe.loggers]]
        plan = make_plan(recipe, registry.warnings(named), to_train=to_train, begins=begins, trained=trained)
        plan = replace(plan, warnings=(*plan.warnings, *_foreign_names(plan, registry)))
    except UserError as error:
        problems += error.problems
    try:
        convolutions = plan is not None and plan.convolutions
        multiply_adds = plan.multiply_adds if plan is not None else None
        where = recipe.places.of("train", "device")
        placement = place(recipe.train.device, recipe.train.precision, where, convolutions, multiply_adds)
    except UserError as error:
        problems += error.problems
    if problems or not plan or not placement:
        raise UserError(*problems)
    return plan, placement


def _unwritable(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem for each path that is not UTF-8, which a recipe file cannot hold."""
    parts: list[tuple[tuple[str, ...], Any]] = [(("data",), recipe.data)]
    parts += [(("tricks", part.name), part) for part in recipe.tricks]
    parts += [(("loggers", part.name), part) for part in recipe.loggers]
    for at, part in parts:
        for key in getattr(part.found.cls, "paths", ()):
            path = str(Path(getattr(part.options, key) or "").absolute())
            if path != legible(path):
                yield Problem(f"{legible(path)} is not UTF-8, as recipes are", recipe.places.of(*at, key), NAME_IT_ANEW)


def _foreign_names(plan: Plan, registry: Registry) -> Iterator[str]:
    """Yield a warning for each unknown name in the conflicts and cautions of tricks that do not ship with gantricks."""
    others = [planned for planned in plan.tricks if planned.origin != "gantricks"]
    known = registry.names("tricks") if others else {}
    for trick, name in unknown_names(others, {*known, *(planned.name for planned in plan.tricks)}):
        advice = nearest(name, {*known, *CAPABILITIES})
        told = f"{trick} names {name!r} among its conflicts and cautions, which is not a known trick"
        yield f"{told}: {advice}" if advice else f"{told}; its package may not be installed"
