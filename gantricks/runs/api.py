"""Training, resuming and sampling, for programs and for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tomli_w
from PIL.Image import Image

from gantricks.catalogue.registry import Registry
from gantricks.data.base import Description
from gantricks.engine.game import Game
from gantricks.engine.sampling import sampling_generator
from gantricks.errors import Problem, UserError, legible
from gantricks.files import name_aside, write_whole
from gantricks.networks.base import Generator
from gantricks.planning.plan import Plan, on_data
from gantricks.planning.prepare import plan_recipe, prepare
from gantricks.planning.recipe import Recipe
from gantricks.runs import checkpoint, signals
from gantricks.runs import folder as folders
from gantricks.runs.conditions import conditions_for
from gantricks.runs.edits import edits, lengthened, not_of_samples, not_to_resume
from gantricks.runs.folder import RECIPE
from gantricks.runs.manifest import data_facts, differences
from gantricks.runs.opening import Run, View, open_run
from gantricks.runs.reference import REFERENCE, keep_reference
from gantricks.runs.reporter import Reporter, Result
from gantricks.runs.samples import GRID, picture
from gantricks.runs.session import Session

TRAINING = "training this run"


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    resume: Literal["auto"] | None = None,
    reporter: Reporter | None = None,
) -> Result:
    """Train a recipe in a new folder: `runs/<name>`, or `run_dir` where it is given.

    `overrides` are `KEY=VALUE` strings; `plugins` are files that hold one trick each. With `resume="auto"`, a run of
    this recipe that is in the folder is continued, so that one call begins a run, goes on with it, or finds it
    finished. Raises UserError with everything that is wrong with the recipe, the data, the device or the folder.
    """
    reporter = reporter or Reporter()
    if run_dir and legible(str(run_dir)) != str(run_dir):
        raise UserError(Problem("the folder's name is not UTF-8", f"--run-dir {legible(str(run_dir))}", "name another"))
    plan, placement = plan_recipe(recipe, overrides, Registry([Path(p) for p in plugins]))
    if resume == "auto":
        run_dir = run_dir or Path("runs", plan.recipe.name)
        if (Path(run_dir) / RECIPE).is_file():
            return _continued(Path(run_dir), plan.recipe, overrides, plugins, reporter)
    reporter.planned(plan, placement)
    run, made = folders.new_run(Path(run_dir) if run_dir else None, plan.recipe.name)
    if not made:
        _may_begin(run)  # before a lock file is made there
    with signals.heard() as ending, folders.locked(run, TRAINING, reporter.warn):
        try:
            left = _may_begin(run)
            folders.sweep(run)
            dataset = plan.source.load(reporter.reading)
            folders.set_aside(run, left)
            write_whole(run / RECIPE, plan.recipe.as_toml())
            keep_reference(run, dataset)
        except BaseException:
            if made:
                folders.give_back(run)
            raise
        facts = {"recipe": plan.recipe.as_dict(), "data": data_facts(dataset, plan.description)}
        return Session(run, plan, dataset, placement, reporter, ending, facts).play(None)


def _continued(
    run: Path, recipe: Recipe, overrides: Sequence[str], plugins: Sequence[str | Path], reporter: Reporter
) -> Result:
    """Continue the run in a folder. Raises UserError where it is one of another recipe."""
    opened = open_run(run, plugins)
    if opened.manifest.recipe is not None:
        others = edits(replace(recipe, loggers=()), opened.manifest.recipe, opened.registry, run)
        if others:
            raise UserError(*others)
    places = [f"data.{key}=" for key in getattr(recipe.data.found.cls, "paths", ())]
    kept = [one for one in overrides if one.startswith((*places, "loggers."))]
    return resume(run, plugins=plugins, overrides=kept, reporter=reporter)


def resume(
    run: str | Path,
    *,
    step: int | None = None,
    steps: int | None = None,
    device: str | None = None,
    plugins: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Result:
    """Continue a run from its newest checkpoint, or from the one at `step`; from the beginning when it has none.

    The result is bit-identical to a run that was never stopped, on the same machine, torch version, device and number
    of threads. `steps` makes the run longer or shorter. Schedules still run over as many steps as before and then keep
    their last value. `overrides` are `KEY=VALUE` strings that say where the data is now, or set loggers. Both are
    written into the run's recipe. Raises UserError when the folder is not a run, when its recipe was edited, or the
    checkpoint is damaged.
    """
    reporter = reporter or Reporter()
    opened = open_run(Path(run), plugins)
    folder, manifest, registry = opened.folder, opened.manifest, opened.registry
    found = opened.without_loggers().recipe()
    problems = edits(found, manifest.recipe, registry, folder) if manifest.recipe is not None else []
    problems += not_to_resume(overrides, getattr(found.data.found.cls, "paths", ()))
    problems += opened.missing_loggers(overrides)
    if problems:
        raise UserError(*problems)
    recipe = _with_all_kept(opened.recipe(overrides))
    played = _with_all_kept(opened.as_begun(device, overrides))
    if steps is not None:
        recipe, played = lengthened(recipe, steps), lengthened(played, steps)
    with signals.heard() as ending, folders.locked(folder, TRAINING, reporter.warn):
        folders.sweep(folder)
        start = opened.checkpoint(step) if step is not None or checkpoint.checkpoints(folder) else None
        saved = checkpoint.load(start, manifest.id) if start else None
        done = saved[1]["step"] if saved else 0
        if steps is not None and steps <= done and steps != found.train.steps:
            what = f"the run has done {done} steps already"
            raise UserError(Problem(what, f"--steps {steps}", f"write {done + 1} at least"))
        if saved and done >= recipe.train.steps and not saved[1].get("unmeasured"):
            if recipe.train.keep != "all":  # the disk may have been full when it was time to
                checkpoint.keep_newest(folder, recipe.train.keep)
            return Result(folder, done, recipe.train.steps, state_from=saved[1].get("state_from_step"))
        with opened.where_data_is(played, "resume"):
            plan, placement = prepare(played, registry, begins=saved is None)
        placement = replace(placement, threads=manifest.threads or placement.threads)
        reporter.planned(plan, placement)
        _same_form(plan, manifest.data.description)
        dataset = plan.source.load(reporter.reading)
        facts: dict[str, Any] = {"recipe": recipe.as_dict(), "data": data_facts(dataset, plan.description)}
        for sentence in differences(manifest, plan, placement, facts["data"]):
            reporter.warn(sentence)
        if saved:
            if (state_from := saved[1].get("state_from_step")) is not None:
                reporter.warn(f"the run goes on from the state after step {state_from}, which a trick has brought back")
            checkpoint.set_aside_after(folder, done)
        if not (folder / REFERENCE).exists():
            keep_reference(folder, dataset)
        # the recipe first: if the process is killed before the manifest is written, schedules and data are still the
        # same
        _rewrite(folder, found.as_dict() | _loggers_of(opened), recipe)
        given = [*overrides, *([f"train.steps={steps}"] if steps is not None else [])]
        session = {"set": given} if given else {}
        began_with = manifest.data.model_dump(mode="json", exclude_unset=True)
        if facts["data"] != facts["data"] | began_with:
            session["data"] = facts["data"]
        facts |= {"data": facts["data"] | began_with}
        return Session(folder, plan, dataset, placement, reporter, ending, facts, session).play(saved)


def sample(
    run: str | Path,
    count: int = GRID,
    seed: int = 0,
    *,
    step: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    texts: Sequence[str] = (),
    conditions: np.ndarray | None = None,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Image:
    """Return a picture of `count` samples of a run's generator, from its newest checkpoint or the one at `step`.

    A generator that is given conditions draws for those of real samples, or for `texts`, or for `conditions` (n, E),
    which take turns. `overrides`, `KEY=VALUE` strings, set tricks that act on samples alone. `warn` is called with a
    sentence about words that no caption of the data has. Raises UserError where the generator is given no captions, or
    the conditions do not fit.
    """
    view = _view(run, device, plugins, overrides)
    given = conditions_for(view.plan, texts, conditions, warn)
    game = view.game(step)
    with game.placement.computing():
        return picture(game, count, seed, given)


def load_generator(
    run: str | Path, *, step: int | None = None, device: str = "cpu", plugins: Sequence[str | Path] = ()
) -> Generator:
    """Return the generator that a run is sampled with: averaged weights where a trick keeps some, surgery included.

    It is that of the newest checkpoint or of the one at `step`, in eval mode and without gradients, and is called with
    latents (B, `latent_dim`), and classes (B,) or conditions (B, E) where it is given these. Nothing is written, and no
    data is opened. Raises UserError when the folder is not a run, or its checkpoint is damaged or missing.
    """
    game = load_game(run, step=step, device=device, plugins=plugins)
    network: Generator = sampling_generator(game, 0).eval().requires_grad_(False)
    return network


def load_game(
    run: str | Path,
    *,
    step: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
) -> Game:
    """Return the game of a run at its newest checkpoint, or at the one at `step`. Nothing is written, and no data is
    opened.

    `overrides`, `KEY=VALUE` strings, set tricks that act on samples alone. Raises UserError when the folder is not a
    run, when an override sets anything else, or the checkpoint is damaged or missing.
    """
    return _view(run, device, plugins, overrides).game(step)


def _view(run: str | Path, device: str, plugins: Sequence[str | Path], overrides: Sequence[str]) -> View:
    if problems := list(not_of_samples(overrides)):
        raise UserError(*problems)
    return open_run(Path(run), plugins).view(device, overrides)


def _may_begin(run: Path) -> list[Path]:
    """Return the files that an earlier attempt has left in the folder of a new run.

    Raises UserError where the folder holds a run that can be continued, or files that are not a run's.
    """
    if checkpoint.checkpoints(run):
        raise UserError(
            Problem(
                "the folder holds a run with checkpoints",
                f"--run-dir {run}",
                f"continue it with: gantricks resume {run}, or name another folder",
            )
        )
    return folders.leavings(run)


def _with_all_kept(recipe: Recipe) -> Recipe:
    """Set `keep` to "all" for a run that began when all checkpoints were kept."""
    if "keep" in recipe.train.model_fields_set:
        return recipe
    return replace(recipe, train=recipe.train.model_copy(update={"keep": "all"}))


def _same_form(plan: Plan, trained: Description | None) -> None:
    """Raise UserError where the samples have another shape than those that the run began with."""
    if trained and trained.shape != plan.description.shape:
        on_data(replace(plan, description=replace(plan.description, shape=trained.shape)), plan.description)


def _loggers_of(opened: Run) -> dict[str, Any]:
    """Return the loggers of a run's recipe as they are written there, since those that are left out may be unknown."""
    return {key: table for key, table in opened.file.table.items() if key == "loggers"}


def _rewrite(run: Path, former: Mapping[str, Any], recipe: Recipe) -> None:
    """Write the run's recipe anew where it has changed. A file that the user has edited is kept beside it."""
    if recipe.as_dict() == former:
        return
    path = run / RECIPE
    there = path.read_bytes()
    if there != tomli_w.dumps(former).encode():
        write_whole(name_aside(path), there)
    write_whole(path, recipe.as_toml())
