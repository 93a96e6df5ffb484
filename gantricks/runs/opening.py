"""A run's folder, opened: to go on with, to be sampled, or to be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantricks.catalogue.registry import Registry
from gantricks.data.base import Dataset, Description
from gantricks.data.stand_in import stand_in
from gantricks.engine.game import Game
from gantricks.engine.start import start
from gantricks.errors import Problem, UserError, legible
from gantricks.planning.device import Placement, out_of_memory
from gantricks.planning.plan import Plan, describe
from gantricks.planning.prepare import prepare
from gantricks.planning.recipe import Recipe
from gantricks.planning.recipe_files import RecipeFile, read_recipe
from gantricks.planning.validation import load_recipe
from gantricks.runs import checkpoint
from gantricks.runs.folder import require_run
from gantricks.runs.manifest import Manifest, data_facts, other_data, read_manifest
from gantricks.runs.reference import read_reference
from gantricks.runs.restore import take_up


@dataclass(frozen=True)
class Run:
    """A run in its folder: what it says of itself, its recipe, and what the names in that were found in."""

    folder: Path
    manifest: Manifest
    registry: Registry
    file: RecipeFile

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe as it stands in the folder, under `overrides`. Raises UserError with what is wrong with it."""
        return load_recipe(self.file, overrides, self.registry)

    def as_begun(self, device: str | None, overrides: Sequence[str] = ()) -> Recipe:
        """The same with what "auto" was resolved to when the run began, perhaps on another machine."""
        begun, manifest = [f"train.device={device}"] if device else [], self.manifest
        if manifest.precision:
            begun.append(f"train.precision={manifest.precision}")
        if manifest.capture:
            begun.append(f"train.capture={'off' if manifest.capture == 'off' else 'on'}")
        return self.recipe([*overrides, *begun])

    def checkpoint(self, step: int | None = None) -> Path:
        """The folder of the newest checkpoint, or of the one at `step`. Raises UserError where there is none."""
        found = checkpoint.checkpoints(self.folder)
        if not found:
            hint = f"continue it with: gantricks resume {self.folder}"
            raise UserError(Problem("the run has no checkpoint yet", str(self.folder), hint))
        if step is None:
            return list(found.values())[-1]
        if step not in found:
            there = ", ".join(map(str, found))
            raise UserError(Problem(f"there is no checkpoint at step {step}", f"--step {step}", f"there are: {there}"))
        return found[step]

    def view(self, device: str, overrides: Sequence[str] = ()) -> View:
        """The run to be looked at; no data is opened, unless the run does not say what its data was like.

        Raises UserError when what its recipe names is not there.
        """
        recipe = self.as_begun(device, overrides)
        plan, placement = prepare(recipe, self.registry, to_train=False, trained=self.manifest.data.description)
        return View(self, plan, placement)

    @contextlib.contextmanager
    def where_data_is(self, recipe: Recipe, command: str) -> Iterator[None]:
        """Where the data is not found meanwhile, the user hears how to say where it is now."""
        try:
            yield
        except UserError as error:
            keys = getattr(recipe.data.found.cls, "paths", ())
            place = recipe.places.of("data", *keys[:1])
            if not keys or place.startswith("--set"):
                raise
            how = f"where the data has moved: gantricks {command} {self.folder} --set data.{keys[0]}=PATH"
            raise UserError(
                *(
                    replace(problem, hint=f"{problem.hint}; {how}" if problem.hint else how)
                    if problem.where.startswith(f"{place}:")
                    else problem
                    for problem in error.problems
                )
            ) from error


@dataclass(frozen=True)
class View:
    """A run that is to be looked at and not trained: its plan, and where to compute.

    The plan's description is that of the data it was trained on.
    """

    run: Run
    plan: Plan
    placement: Placement

    def describe(self) -> Description:
        """What the data is like that the recipe names now. Raises UserError where it cannot be opened."""
        with self.run.where_data_is(self.plan.recipe, "evaluate"):
            return describe(self.plan.source, self.plan.recipe.places)

    def other_data(self, dataset: Dataset, description: Description) -> str:
        """A sentence where this is not the data that the run was trained on."""
        return other_data(self.run.manifest.data, data_facts(dataset, description))

    def game(self, step: int | None = None, dataset: Dataset | None = None) -> Game:
        """The game at the newest checkpoint, or at the one of `step`; nothing is written.

        It has made-up samples in the place of the data, which no state depends on. `dataset` is the data, for runs that
        do not hold what is needed of it; where it is left out, those load it. Raises UserError when there is no such
        checkpoint, when it is damaged, or when it does not fit the recipe.
        """
        folder, manifest = self.run.folder, self.run.manifest
        saved = checkpoint.load(self.run.checkpoint(step), manifest.id)
        trained, budget = manifest.data.description, None
        if trained and (trained.is_images or (points := read_reference(folder, trained)) is not None):
            dataset, budget = stand_in(trained, None if trained.is_images else points), 0
        try:
            game = start(self.plan, dataset or self.plan.source.load(), self.placement, budget)
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error) is None:
                raise
            what = f"the memory of {self.placement.device} does not suffice for the networks of this run"
            raise UserError(Problem(what, str(folder))) from error
        take_up(game, saved, folder)
        return game


def open_run(folder: Path, plugins: Sequence[str | Path] = ()) -> Run:
    """Open the run in a folder. Raises UserError where there is none, or where a file that it needs is not named."""
    recipe = require_run(folder)
    if legible(str(folder)) != str(folder):  # safetensors opens no such file
        hint = "rename it, or change into it and name it from there"
        raise UserError(Problem("the folder's name is not UTF-8", legible(str(folder)), hint))
    manifest = read_manifest(folder)
    registry = Registry([Path(p) for p in plugins])
    known = registry.names("tricks")
    problems = []
    for name, trick in manifest.tricks.items():
        if trick.use not in known and "sha256:" in trick.origin:
            path = trick.origin.partition(" sha256:")[0]
            hint = f"add --plugin {path} to the command"
            if not Path(path).is_file():
                hint += f", or where {Path(path).name} is now"
            problems.append(Problem(f"the run uses the trick {name!r} from a file", str(folder), hint))
    if problems:
        raise UserError(*problems)
    return Run(folder, manifest, registry, read_recipe(recipe))
