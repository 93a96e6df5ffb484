"""Which keys of a run's recipe may change between two of its sessions. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gantricks.catalogue.registry import Registry
from gantricks.errors import Problem, UserError
from gantricks.option_errors import check_options
from gantricks.planning.contract import acts_on_samples_alone
from gantricks.planning.keys import TrainKeys
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import Places
from gantricks.planning.validation import validate_recipe
from gantricks.runs.folder import MANIFEST


def edits(recipe: Recipe, begun: Mapping[str, Any], registry: Registry, run: Path) -> list[Problem]:
    """Return a problem for every key whose change makes the run train something else.

    `recipe` is the recipe in `run` now, without its loggers, `begun` the resolved one that the run began with. The
    place of the data may change, and so may loggers, and the length of the run, as long as its schedules run over the
    same steps. Raises UserError where `begun` is not a recipe.
    """
    places = Places()
    places.file = str(run / MANIFEST)
    before = validate_recipe({key: value for key, value in begun.items() if key != "loggers"}, registry, places)
    # the number of steps of the schedules, under the key that the user has written
    length = "schedule_steps" if before.train.schedule_steps or recipe.train.schedule_steps else "steps"
    then, now = _compared(before, length), _compared(recipe, length)
    problems = []
    for key in {**then, **now}:
        if then.get(key) != now.get(key):
            what = f"{key} {_said('is', now.get(key))} and {_said('was', then.get(key))} when the run began"
            problems.append(Problem(what, recipe.places.of(*key.split(".")), _hint(key, then, now, run)))
    names, former = ([part.name for part in each.tricks] for each in (recipe, before))
    if names != former and sorted(names) == sorted(former):
        what = f"the tricks stand in the order {', '.join(names)}, and stood in the order {', '.join(former)}"
        problems.append(Problem(f"{what} when the run began", recipe.places.of("tricks"), "put them back"))
    return problems


def lengthened(recipe: Recipe, steps: int) -> Recipe:
    """Return the recipe with this number of steps, and schedules over as many steps as before."""
    keys: dict[str, Any] = recipe.train.model_dump(mode="json", exclude_none=True) | {"steps": steps}
    keys |= {"schedule_steps": recipe.train.length}
    if recipe.train.length == steps:
        del keys["schedule_steps"]
    if problems := [Problem(what, f"--steps {steps}", hint) for _, what, hint in check_options(TrainKeys, keys)]:
        raise UserError(*problems)
    return replace(recipe, train=TrainKeys(**keys))


def not_to_resume(overrides: Collection[str], paths: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each override of a resumed run that changes more than the place of its data and its loggers.

    `paths` are the options of the source that say where the data is.
    """
    allowed = [f"data.{key}" for key in paths]
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in allowed and not key.startswith("loggers."):
            hint = f"{allowed[0]} can be set" if allowed else "this source has no such key"
            if key in ("train.steps", "train.device"):
                hint = f"say it with --{key.partition('.')[2]}"
            what = "a run cannot be changed when it is resumed: only its loggers and the place of its data can be set"
            yield Problem(what, f"--set {override}", hint)


def not_of_samples(overrides: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each override of a sampled run that is not one of a trick."""
    for override in overrides:
        if not override.startswith("tricks."):
            what = "a run is sampled as it was trained: only tricks that act on samples alone can be set"
            yield Problem(what, f"--set {override}", "write tricks.NAME.OPTION=VALUE, or train a run with it")


def trained_with(before: Recipe, after: Recipe) -> Iterator[Problem]:
    """Yield a problem for each trick of which the two recipes differ, unless it acts on samples alone.

    `before` is the recipe of a run that has been trained, `after` the one that it is to be sampled with.
    """
    then, now = ({part.name: part for part in recipe.tricks} for recipe in (before, after))
    for name in {**then, **now}:
        parts = [tricks[name] for tricks in (then, now) if name in tricks]
        same = len(parts) == 2 and parts[0].found.name == parts[1].found.name and parts[0].options == parts[1].options
        if not same and not all(acts_on_samples_alone(part.found.cls) for part in parts):
            what = f"{name} acts in training, and the run is trained: only tricks that act on samples alone can be set"
            yield Problem(what, after.places.of("tricks", name), "begin a run of its own with it")


def _compared(recipe: Recipe, length: str) -> dict[str, Any]:
    """Return the keys that a run's numbers depend on, dotted, with their values."""
    table = recipe.as_dict()
    for key in getattr(recipe.data.found.cls, "paths", ()):
        table["data"].pop(key, None)
    train = {key: value for key, value in table["train"].items() if key not in ("steps", "schedule_steps")}
    return dict(_flat(table | {"train": train | {length: recipe.train.length}}))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _said(verb: str, value: Any) -> str:
    return f"{verb} not there" if value is None else f"{verb} {json.dumps(value, ensure_ascii=False)}"


def _hint(key: str, then: Mapping[str, Any], now: Mapping[str, Any], run: Path) -> str:
    if key == "train.steps":
        return f"put {then[key]} back and write: gantricks resume {run} --steps {now[key]}"
    if key == "train.device":
        return f"put it back; for this session it can be said with --device {now[key]}"
    return "put it back, or begin a run of its own with it"
