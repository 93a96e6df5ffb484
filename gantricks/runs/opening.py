"""Opens a run's folder to continue, sample or measure the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gantricks.catalogue.kinds import SINGULAR
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
from gantricks.runs.edits import trained_with
from gantricks.runs.folder import require_run
from gantricks.runs.manifest import Manifest, PartFacts, data_facts, other_data, read_manifest
from gantricks.runs.reference import read_reference
from gantricks.runs.restore import load_state


@dataclass(frozen=True)
class Run:
    """A run in its folder: its manifest, its recipe, and the registry in which the recipe's names are looked up."""

    folder: Path
    manifest: Manifest
    registry: Registry
    file: RecipeFile

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """Return the recipe in the folder with `overrides`. Raises UserError with everything that is wrong with it."""
        return load_recipe(self.file, overrides, self.registry)

    def as_begun(self, device: str | None, overrides: Sequence[str] = ()) -> Recipe:
        """Return the same recipe, with "auto" replaced by what it was resolved to when the run began, perhaps on
        another machine.
        """
        begun, manifest = [f"train.device={device}"] if device else [], self.manifest
        if manifest.precision:
            begun.append(f"train.precision={manifest.precision}")
        if manifest.capture:
            begun.append(f"train.capture={'off' if manifest.capture == 'off' else 'on'}")
        return self.recipe([*overrides, *begun])

    def without_loggers(self) -> Run:
        """Return the run without the loggers of its recipe, which only training needs."""
        table = {key: value for key, value in self.file.table.items() if key != "loggers"}
        return replace(self, file=replace(self.file, table=table))

    def missing_loggers(self, overrides: Sequence[str]) -> Iterator[Problem]:
        """Yield a problem for each logger of the recipe with `overrides` that came from a file which is not named."""
        tables = self.file.under(overrides).table.get("loggers")
        for name, table in tables.items() if isinstance(tables, Mapping) else ():
            facts = self.manifest.loggers.get(name)
            if facts and isinstance(table, Mapping) and table.get("use", name) == facts.use:
                yield from _missing("loggers", {name: facts}, self, f"; or --set loggers.{name}=off")

    def checkpoint(self, step: int | None = None) -> Path:
        """Return the folder of the newest checkpoint, or of the one at `step`. Raises UserError where there is none."""
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
        """Prepare the run for sampling or measuring. No data is opened, unless the manifest lacks the description of
        the data.

        Raises UserError when something that its recipe names is missing, and where `overrides` change a trick that the
        run was trained with.
        """
        run = self.without_loggers()
        recipe = run.as_begun(device, overrides)
        kept = [override for override in overrides if not override.startswith("tricks.")]
        if problems := list(trained_with(run.as_begun(device, kept), recipe)):
            raise UserError(*problems)
        plan, placement = prepare(
            recipe, self.registry, to_train=False, begins=False, trained=self.manifest.data.description
        )
        return View(run, plan, placement)

    @contextlib.contextmanager
    def where_data_is(self, recipe: Recipe, command: str) -> Iterator[None]:
        """Add to an error about missing data how to say where the data is now."""
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
    """A run prepared for sampling or measuring: its plan, and where to compute.

    The plan's description is that of the data that the run was trained on.
    """

    run: Run
    plan: Plan
    placement: Placement

    def describe(self) -> Description:
        """Describe the data that the recipe names now. Raises UserError where it cannot be opened."""
        with self.run.where_data_is(self.plan.recipe, "evaluate"):
            return describe(self.plan.source, self.plan.recipe.places)

    def other_data(self, dataset: Dataset, description: Description) -> str:
        """Return a sentence where this is not the data that the run was trained on, or ""."""
        return other_data(self.run.manifest.data, data_facts(dataset, description))

    def game(self, step: int | None = None, dataset: Dataset | None = None) -> Game:
        """Return the game at the newest checkpoint, or at the one of `step`. Nothing is written.

        Made-up samples take the place of the data, on which no state depends. `dataset` is the data for runs whose
        folder lacks what sampling needs of it; where it is left out, those runs load it. Raises UserError when the
        checkpoint is missing or damaged, or does not fit the recipe.
        """
        folder, manifest = self.run.folder, self.run.manifest
        saved = checkpoint.load(self.run.checkpoint(step), manifest.id)
        trained, budget = manifest.data.description, None
        if trained and (kept := read_reference(folder, trained)):
            dataset, budget = stand_in(trained, *kept), 0
        try:
            game = start(self.plan, dataset or self.plan.source.load(), self.placement, budget)
        except (MemoryError, RuntimeError) as error:
            if out_of_memory(error) is None:
                raise
            what = f"the memory of {self.placement.device} does not suffice for the networks of this run"
            raise UserError(Problem(what, str(folder))) from error
        load_state(game, saved, folder)
        return game


def open_run(folder: Path, plugins: Sequence[str | Path] = ()) -> Run:
    """Open the run in a folder. Raises UserError where there is none, or where a plugin file that it needs is not
    named.
    """
    recipe = require_run(folder)
    if legible(str(folder)) != str(folder):  # safetensors cannot open files in such a folder
        hint = "rename it, or change into it and name it from there"
        raise UserError(Problem("the folder's name is not UTF-8", legible(str(folder)), hint))
    manifest = read_manifest(folder)
    run = Run(folder, manifest, Registry([Path(p) for p in plugins]), read_recipe(recipe))
    if problems := list(_missing("tricks", manifest.tricks, run)):
        raise UserError(*problems)
    return run


def _missing(kind: str, parts: Mapping[str, PartFacts], run: Run, otherwise: str = "") -> Iterator[Problem]:
    """Yield a problem for each of these parts of a run that came from a file which is not named now."""
    known = run.registry.names(kind)
    for name, part in parts.items():
        if part.use not in known and "sha256:" in part.origin:
            path = part.origin.partition(" sha256:")[0]
            hint = f"add --plugin {path} to the command"
            if not Path(path).is_file():
                hint += f", or where {Path(path).name} is now"
            what = f"the run uses the {SINGULAR[kind]} {name!r} from a file"
            yield Problem(what, str(run.folder), hint + otherwise)
