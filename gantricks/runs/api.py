"""The loop around the step: folders, signals, logging, pictures, checkpoints. Training, resuming and sampling."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

import gantricks
from gantricks import pictures
from gantricks.catalogue.registry import Registry
from gantricks.data.base import Dataset, Description
from gantricks.data.images import compiler_cache
from gantricks.data.stand_in import POINTS, REFERENCE, keep_reference, read_reference, reference_points, stand_in
from gantricks.engine import capture
from gantricks.engine.game import Game
from gantricks.engine.guard import Fault
from gantricks.errors import Diverged, Problem, UserError, legible
from gantricks.files import free_name, write_whole
from gantricks.networks.base import count_parameters
from gantricks.planning.device import Placement, out_of_memory, peak_memory, place
from gantricks.planning.plan import Plan, describe, make_plan, on_data
from gantricks.planning.recipe import Recipe, RecipeError
from gantricks.planning.recipe_files import NAME_IT_ANEW
from gantricks.planning.validation import load_recipe
from gantricks.rng import Rng
from gantricks.runs import checkpoint, signals
from gantricks.runs import folder as folders
from gantricks.runs.edits import edits, lengthened, not_places
from gantricks.runs.folder import RECIPE
from gantricks.runs.manifest import DataFacts, Manifest, read_manifest, write_manifest

GRID = 64
TRAINING = "training this run"


class Reporter:
    """Told what a run is doing; this one says nothing. The command line has one that draws."""

    def planned(self, plan: Plan, placement: Placement) -> None:
        """The recipe fits together."""

    def reading(self, what: str, done: int, total: int) -> None:
        """A data source is scanning or decoding."""

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        """The first step is next."""

    def capturing(self, what: str) -> None:
        """The step is compiled or captured, which can take a minute; then the run goes on."""

    def stepped(self, finished: int) -> None:
        """A step is done."""

    def logged(self, finished: int, scalars: dict[str, float], steps_per_second: float) -> None:
        """A log line was written."""

    def warn(self, sentence: str) -> None:
        """Something the user should know."""

    def close(self) -> None:
        """The loop is over, for whatever reason."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    `signal` is the one that interrupted it, `stopped` the reason of the trick that ended it early, `memory` the most
    bytes that the process has held: of the GPU's memory, or of the machine's; `state_from` the step that its last state
    is from, where a trick has brought an earlier one back.
    """

    run: Path
    finished: int
    steps: int
    signal: int | None = None
    stopped: str | None = None
    memory: int | None = None
    state_from: int | None = None

    @property
    def pictures(self) -> list[Path]:
        found = [path for path in (self.run / "samples").glob("*.png") if re.fullmatch("[0-9]{1,18}", path.stem)]
        return sorted(found, key=lambda path: int(path.stem))


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    run_dir: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
    reporter: Reporter | None = None,
) -> Result:
    """Train a recipe in a new folder, `runs/<name>` unless `run_dir` says otherwise.

    `overrides` are `KEY=VALUE` strings, `plugins` files that hold one trick each. Raises UserError with everything
    that is wrong with the recipe, the data, the device or the folder.
    """
    reporter = reporter or Reporter()
    if run_dir and legible(str(run_dir)) != str(run_dir):
        raise UserError(Problem("the folder's name is not UTF-8", f"--run-dir {legible(str(run_dir))}", "name another"))
    plan, placement = plan_recipe(recipe, overrides, Registry([Path(p) for p in plugins]))
    reporter.planned(plan, placement)
    run, made = folders.new_run(Path(run_dir) if run_dir else None, plan.recipe.name)
    if not made:
        _may_begin(run)  # before a lock is left there
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
        facts = {"recipe": plan.recipe.as_dict(), "data": _data_facts(dataset, plan.description)}
        return _Session(run, plan, dataset, placement, reporter, ending, facts).play(None)


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
    of threads. `steps` lengthens the run, or ends it earlier: schedules run over as many steps as before, and rest at
    their end. `overrides` are `KEY=VALUE` strings that say where the data is now. Both are written into the run's
    recipe. Raises UserError when the folder is not a run, when its recipe was edited, or the checkpoint is damaged.
    """
    reporter = reporter or Reporter()
    folder = Path(run)
    manifest, registry = _opened(folder, plugins)
    found = load_recipe(folder / RECIPE, (), registry)
    problems = edits(found, manifest.recipe, registry, folder) if manifest.recipe is not None else []
    problems += not_places(overrides, getattr(found.data.found.cls, "paths", ()))
    if problems:
        raise UserError(*problems)
    recipe = _with_all_kept(load_recipe(folder / RECIPE, overrides, registry))
    played = _with_all_kept(load_recipe(folder / RECIPE, [*overrides, *_as_begun(manifest, device)], registry))
    if steps is not None:
        recipe, played = lengthened(recipe, steps), lengthened(played, steps)
    with signals.heard() as ending, folders.locked(folder, TRAINING, reporter.warn):
        folders.sweep(folder)
        start = _checkpoint(folder, step) if step is not None or checkpoint.checkpoints(folder) else None
        saved = checkpoint.load(start, manifest.id) if start else None
        done = saved[1]["step"] if saved else 0
        if steps is not None and steps <= done and steps != found.train.steps:
            what = f"the run has done {done} steps already"
            raise UserError(Problem(what, f"--steps {steps}", f"write {done + 1} at least"))
        if saved and done >= recipe.train.steps:
            return Result(folder, done, recipe.train.steps, state_from=saved[1].get("state_from_step"))
        with _where_data_is(folder, played, "resume"):
            plan, placement = prepare(played, registry)
        placement = replace(placement, threads=manifest.threads or placement.threads)
        reporter.planned(plan, placement)
        _same_form(plan, manifest.data.description)
        dataset = plan.source.load(reporter.reading)
        facts: dict[str, Any] = {"recipe": recipe.as_dict(), "data": _data_facts(dataset, plan.description)}
        for sentence in _differences(manifest, plan, placement, facts["data"]):
            reporter.warn(sentence)
        if saved:
            if (state_from := saved[1].get("state_from_step")) is not None:
                reporter.warn(f"the run goes on from the state after step {state_from}, which a trick has brought back")
            checkpoint.set_aside_after(folder, done)
        if not (folder / REFERENCE).exists():
            keep_reference(folder, dataset)
        # first the recipe: until the manifest follows, the run has the same schedules and data as before
        _rewrite(folder, found, recipe)
        given = [*overrides, *([f"train.steps={steps}"] if steps is not None else [])]
        session = {"set": given} if given else {}
        began_with = manifest.data.model_dump(mode="json", exclude_unset=True)
        if facts["data"] != facts["data"] | began_with:
            session["data"] = facts["data"]
        facts |= {"data": facts["data"] | began_with}
        return _Session(folder, plan, dataset, placement, reporter, ending, facts, session).play(saved)


def sample(
    run: str | Path,
    count: int = GRID,
    seed: int = 0,
    *,
    step: int | None = None,
    device: str = "cpu",
    plugins: Sequence[str | Path] = (),
) -> Image:
    """A picture of `count` samples of a run's generator, from its newest checkpoint or the one at `step`."""
    game = load_game(run, step=step, device=device, plugins=plugins)
    return picture(game, count, seed)


def load_game(
    run: str | Path, *, step: int | None = None, device: str = "cpu", plugins: Sequence[str | Path] = ()
) -> Game:
    """The game of a run at its newest checkpoint, or the one at `step`; nothing is written, and no data is opened.

    Raises UserError when the folder is not a run, or its checkpoint is damaged or not there.
    """
    return saved_game(open_run(Path(run), device, plugins), step)


@dataclass(frozen=True)
class Opened:
    """A run that is to be looked at: its plan, where to compute, what its names were found in, what it says of itself.

    The plan's description is that of the data it was trained on.
    """

    run: Path
    plan: Plan
    placement: Placement
    registry: Registry
    manifest: Manifest

    def describe(self) -> Description:
        """What the data is like that the recipe names now. Raises UserError where it cannot be opened."""
        with _where_data_is(self.run, self.plan.recipe, "evaluate"):
            return describe(self.plan.source, self.plan.recipe.places)

    def other_data(self, dataset: Dataset, description: Description) -> str:
        """A sentence where this is not the data that the run was trained on."""
        return _other_data(self.manifest.data, _data_facts(dataset, description))


def open_run(run: Path, device: str, plugins: Sequence[str | Path], overrides: Sequence[str] = ()) -> Opened:
    """The plan of a run that is to be looked at; no data is opened, unless the run does not say what its data was like.

    `overrides` are `KEY=VALUE` strings that go over the run's recipe.

    Raises UserError when the folder is not a run, or what its recipe names is not there.
    """
    manifest, registry = _opened(run, plugins)
    recipe = load_recipe(run / RECIPE, [*overrides, *_as_begun(manifest, device)], registry)
    plan, placement = prepare(recipe, registry, to_train=False, trained=manifest.data.description)
    return Opened(run, plan, placement, registry, manifest)


def saved_game(opened: Opened, step: int | None = None, dataset: Dataset | None = None) -> Game:
    """The game of a run at its newest checkpoint, or the one at `step`; nothing is written.

    It has made-up samples in the place of the data, which no state depends on. `dataset` is the data, for runs that do
    not hold what is needed of it; where it is left out, those load it. Raises UserError when there is no such
    checkpoint, when it is damaged, or when it does not fit the recipe.
    """
    run, plan = opened.run, opened.plan
    saved = checkpoint.load(_checkpoint(run, step), opened.manifest.id)
    trained, budget = opened.manifest.data.description, None
    if trained and (trained.is_images or (points := read_reference(run, trained)) is not None):
        dataset, budget = stand_in(trained, None if trained.is_images else points), 0
    try:
        game = Game(plan, dataset or plan.source.load(), opened.placement, budget=budget)
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error) is None:
            raise
        what = f"the memory of {opened.placement.device} does not suffice for the networks of this run"
        raise UserError(Problem(what, str(run))) from error
    _take_up(game, saved, run)
    return game


def plan_recipe(recipe: str | Path, overrides: Iterable[str], registry: Registry) -> tuple[Plan, Placement]:
    """Load a recipe and plan it.

    Raises UserError with every problem: those of the keys, and those of what the right keys ask for.
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
    recipe: Recipe, registry: Registry, *, to_train: bool = True, trained: Description | None = None
) -> tuple[Plan, Placement]:
    """The plan of a recipe and where it computes. `trained` describes the data that a run was trained on, where nothing
    is to be opened. Raises UserError with the problems of both.
    """
    problems = list(_unwritable(recipe)) if to_train else []
    plan = placement = None
    try:
        parts: list[Any] = [recipe.data, recipe.generator, recipe.discriminator, *recipe.tricks, *recipe.metrics]
        named = [part.found.name for part in parts]
        plan = make_plan(recipe, registry.warnings(named), to_train=to_train, trained=trained)
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
    """Paths that no recipe can hold, which is UTF-8."""
    for key in getattr(recipe.data.found.cls, "paths", ()):
        path = str(Path(getattr(recipe.data.options, key)).absolute())
        if path != legible(path):
            yield Problem(f"{legible(path)} is not UTF-8, as recipes are", recipe.places.of("data", key), NAME_IT_ANEW)


LARGE = 1 << 22
"""Weights from which on drawing them, and a pass of a whole batch, take so long that `check` does without."""


def _is_large(plan: Plan) -> bool:
    return sum(plan.parameters().values()) >= LARGE


class _Repeating(Rng):
    """Draws of which every row is the same: made in no time, and enough to see what surgery makes of a network."""

    def fork(self, name: str) -> Rng:
        return self

    def anew(self, name: str) -> Rng:
        return self

    def normal(self, shape: int | Sequence[int]) -> torch.Tensor:
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        return super().normal(sizes[-1:]).expand(sizes)


class _Surgery(Game):
    """A run that is built as far as its networks: importing optimizers takes longer than all of it."""

    def stream(self, name: str) -> Rng:
        stream = super().stream(name)
        if not name.startswith("initialise/") or not _is_large(self.plan):
            return stream
        return _Repeating(self.seed, name, self.clock, self.placement.device, self.placement.dtype)

    def _build_players(self) -> None:
        pass


def try_surgery(plan: Plan) -> None:
    """Build the networks on the CPU, beside a few made-up samples, for what tricks refuse when they see them.

    Raises UserError with what the first of them says.
    """
    most = 64
    if _is_large(plan):
        part = plan.recipe.data
        most = min(part.keys.batch_size, max(4, 2 * plan.group))
        keys = part.keys.model_copy(update={"batch_size": most})
        plan = replace(plan, recipe=replace(plan.recipe, data=replace(part, keys=keys)))
    few = replace(plan.description, count=min(plan.description.count, most))
    _Surgery(plan, stand_in(few), place("cpu", "fp32"), budget=0)


def picture(game: Game, count: int, seed: int) -> Image:
    """A grid of samples, or a scatter plot over the real points for vector data."""
    samples = game.sample(count, seed)
    if game.feed.is_images:
        classes = game.generator.classes
        # a column holds one class, and the grid is as near to a square as that allows
        columns = classes * max(1, round(math.sqrt(count) / classes)) if 0 < classes <= count else None
        return pictures.image_grid(pictures.to_pixels(samples), columns=columns)
    return pictures.scatter(samples, reference=reference_points(game.dataset))


FINGERPRINTED = 1 << 28
"""Bytes of samples up to which the manifest's fingerprint covers all of them."""


_OF_A_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_INTERVALS = ("log_every", "sample_every", "checkpoint_every")


class _Session:
    """One process's part of a run."""

    def __init__(
        self,
        run: Path,
        plan: Plan,
        dataset: Dataset,
        placement: Placement,
        reporter: Reporter,
        ending: signals.Ending,
        facts: Mapping[str, Any],
        session: Mapping[str, Any] | None = None,
    ) -> None:
        """`facts` go into the manifest as they are, `session` into its account of this session."""
        self.run, self.plan, self.dataset, self.reporter = run, plan, dataset, reporter
        self.facts, self.session = facts, session or {}
        self.train = plan.recipe.train
        self.placement = placement
        self.ending = ending
        self.game: Game | None = None
        self._own: dict[str, str] = {}

    def play(self, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> Result:
        backend = capture.backend(self.plan, self.placement)
        if backend == capture.INDUCTOR and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            # before an optimizer is made: torch imports its compiler there and chooses
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiler_cache())
        with self.ending.patiently(), self.placement.computing(), self._memory_suffices(), self._disk_suffices():
            self.game = game = Game(self.plan, self.dataset, self.placement)
            game.backend = backend
            game.announce = self.reporter.capturing
            if saved:
                _take_up(game, saved, self.run)
            self._play(game, saved)
        return Result(
            self.run,
            game.finished,
            game.steps,
            self.ending.number,
            game.frame.stop_reason,
            peak_memory(self.placement.device),
            game.state_from,
        )

    def _play(self, game: Game, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        from gantricks.runs.logs import Log  # imports TensorBoard, which only a run needs

        parameters = {role: count_parameters(getattr(game, role)) for role in ("generator", "discriminator")}
        began, first = time.time(), game.finished
        identity = self._identity(saved)
        self._own = {"run": identity} if identity else {}
        self._write_manifest(parameters, first, None, began)
        log = Log(self.run, self.plan.recipe, first)
        try:
            self.reporter.started(game, self.run, parameters)
            for note in self.dataset.notes:
                self.reporter.warn(f"[data]: {note}")
            with checkpoint.Writer() as self.writer, game.training():
                self._loop(game, log)
        except BaseException:
            # what has gone wrong is told, and not what goes wrong because of it
            with contextlib.suppress(OSError):
                log.close()
            with contextlib.suppress(OSError):
                self._write_manifest(parameters, first, game.finished, began)
            raise
        finally:
            self.reporter.close()
        log.close()
        self._write_manifest(parameters, first, game.finished, began)

    def _identity(self, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> str | None:
        """The run's id, which its manifest and its checkpoints bear: a sum over what its numbers depend on, so that two
        runs of one id make the same checkpoints. None in a run that has checkpoints from before there were ids."""
        known = read_manifest(self.run).id
        if known or saved:
            return known or (saved[1].get("run") if saved else None)
        recipe = self.plan.recipe.as_dict()
        data, train = recipe["data"], recipe["train"]
        recipe["data"] = {key: data[key] for key in data.keys() - set(self.plan.source.paths)}
        recipe["train"] = {key: train[key] for key in train.keys() - {*_INTERVALS, "keep"}}
        recipe["tricks"] = list(recipe.get("tricks", {}).items())  # their order counts
        now = versions()
        facts = [
            recipe | {"name": ""},
            self.facts["data"]["fingerprint"],
            now["gantricks"],
            now["torch"],
            str(self.placement),
        ]
        facts += [planned.origin.rpartition(" sha256:")[2] for planned in self.plan.tricks]
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _loop(self, game: Game, log: Any) -> None:
        train = self.train
        mark, mark_step = time.perf_counter(), game.finished
        while game.finished < game.steps and game.advance():
            step = game.finished
            last = step == game.steps
            if step % train.log_every == 0 or last:
                scalars, fault = game.scalars()
                if fault:
                    self._stop_at(fault, game)
                now = time.perf_counter()
                speed = (step - mark_step) / (now - mark)
                mark, mark_step = now, step
                log.scalars(step, scalars, speed)
                self.reporter.logged(step, scalars, speed)
                for sentence in game.frame.warnings:
                    self.reporter.warn(f"step {step}: {sentence}")
                game.frame.warnings.clear()
            self.reporter.stepped(step)
            self.writer.check()
            if last:
                break  # a signal that comes now finds a run that ends anyway
            if step % train.sample_every == 0:
                self._picture(game, log)
            interrupted = self.ending.number is not None  # looked at once: a signal that comes later has its own step
            if step % train.checkpoint_every == 0 or interrupted:
                self._save(game, log)
            if interrupted:
                return
        game.finish()
        self._picture(game, log)
        self._save(game, log)

    def _picture(self, game: Game, log: Any) -> None:
        count = GRID if game.feed.is_images else POINTS
        log.picture(game.finished, picture(game, count, self.plan.recipe.seed))

    def _save(self, game: Game, log: Any) -> None:
        if fault := game.fault():
            self._stop_at(fault, game)
        name = checkpoint.checkpoint_name(game.finished)
        self.writer.save(
            self.run / "checkpoints" / name,
            game.state(),
            self._own | game.counters(),
            first=log.flush,
            then=self._remove_oldest,
        )

    def _remove_oldest(self) -> None:
        if self.train.keep != "all":
            checkpoint.keep_newest(self.run, self.train.keep)

    def _stop_at(self, fault: Fault, game: Game) -> None:
        """Leave the state from before the fault where it can be looked at, and say what happened."""
        folder = self.run / "fault" / checkpoint.checkpoint_name(fault.step)
        before = {"step": fault.step - 1, "phase": fault.player, "images_seen": game.cursors[fault.step - 1]}
        checkpoint.save(folder, game.state(), self._own | game.counters() | before)
        names = [fault.told(name) for name in fault.names]
        raise Diverged(
            Problem(
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not finite at step {fault.step}; "
                f"the run has stopped with the state from before it, in {folder}",
                str(self.run),
                "a smaller learning rate, or one trick less, is what usually helps; "
                f"gantricks resume {self.run} would meet the same step again",
            )
        )

    def _write_manifest(self, parameters: dict[str, int], first: int, finished: int | None, began: float) -> None:
        assert self.game
        there = read_manifest(self.run).sessions
        earlier = [each.model_dump(mode="json", exclude_unset=True) for each in there if each.began != _date(began)]
        session = {
            "argv": [legible(word) for word in sys.argv],
            "began": _date(began),
            "ended": _date(time.time()) if finished is not None else None,
            "from_step": first,
            "to_step": finished,
            "peak_memory": peak_memory(self.placement.device) if finished is not None else None,
            **self.session,
        } | ({"state_from_step": self.game.state_from} if self.game.state_from is not None else {})
        facts = {
            **({"id": self._own["run"]} if self._own else {}),
            **versions(),
            "device": str(self.placement.device),
            "device_name": str(self.placement),
            "precision": self.placement.precision,
            "capture": self.game.backend or "off",
            "threads": self.placement.threads,
            "seed": self.plan.recipe.seed,
            "parameters": parameters,
            "tricks": {p.name: {"use": p.use, "origin": legible(p.origin)} for p in self.plan.tricks},
            **self.facts,
            "sessions": [*earlier, session],
        }
        write_manifest(self.run, facts)

    @contextlib.contextmanager
    def _memory_suffices(self) -> Iterator[None]:
        """Where it does not, the user hears of a batch size that may fit."""
        try:
            yield
        except Exception as error:
            asked = out_of_memory(error)
            if asked is None:
                raise
            size = self.game.feed.batch_size if self.game else self.plan.recipe.data.keys.batch_size
            wanted = f": {asked} more were asked for" if asked else ""
            hint = "smaller networks or images need less"
            if size > 1:
                hint = f"try --set data.batch_size={size // 2}; {hint}, too"
            raise UserError(
                Problem(
                    f"the memory of {self.placement.device} does not suffice for batches of {size}{wanted}",
                    str(self.run),
                    hint,
                )
            ) from error

    @contextlib.contextmanager
    def _disk_suffices(self) -> Iterator[None]:
        """Where it does not, the user hears of the file, of how far the run is saved and of how to go on."""
        try:
            yield
        except OSError as error:
            where = Path(error.filename) if isinstance(error.filename, str) else self.run
            named = where != self.run or error.errno in _OF_A_DISK
            # what fails elsewhere, such as a data set that has gone, is told as it is
            if not named or not where.is_relative_to(self.run):
                raise
            step = max(checkpoint.checkpoints(self.run), default=None)
            saved = "is not saved yet" if step is None else f"is saved up to step {step}"
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "make room on the disk, then" if full else "when it can be written again"
            raise UserError(
                Problem(f"{error.strerror}; the run {saved}", str(where), f"{hint}: gantricks resume {self.run}")
            ) from error


def _take_up(game: Game, saved: tuple[dict[str, Any], dict[str, Any]], run: Path) -> None:
    try:
        _refuse_unfit(game, *saved)
        game.load(*saved)
    except (KeyError, ValueError) as error:
        raise UserError(
            Problem(
                f"the checkpoint does not fit the recipe: {error.args[0]}",
                str(run / RECIPE),
                "the recipe, a plugin or the data has changed since it was written; put it back, or train afresh",
            )
        ) from error


def _refuse_unfit(game: Game, tensors: dict[str, dict[str, torch.Tensor]], counters: dict[str, Any]) -> None:
    """Raise ValueError where a checkpoint holds what no game of this recipe does and `Game.load` takes on trust."""
    live = game.state()
    if differing := ", ".join(sorted((live.keys() ^ tensors.keys()) - {"kept"})):
        raise ValueError(f"it holds other groups of tensors than this recipe makes: {differing}")
    if ("kept" in tensors) != ("kept" in counters):
        raise ValueError("of the state to come back to it holds a half")
    for numbers in (counters, counters.get("kept", counters)):
        _refuse_other_numbers(game.counters()["optimizers"], numbers["optimizers"])
    flat = {f"{group}/{name}": tensor for group, named in live.items() for name, tensor in named.items()}
    for name, tensor in tensors.get("kept", {}).items():
        if name not in flat:
            # what an optimizer makes at its first step is there only after loading
            if not name.partition("/")[0].endswith("_optimizer"):
                raise ValueError(f"the state to come back to holds {name}, which this recipe does not make")
        elif (tensor.shape, tensor.dtype) != (flat[name].shape, flat[name].dtype):
            raise ValueError(f"the state to come back to: {name} is {tuple(tensor.shape)} of {tensor.dtype}")
    networks = {name for name in flat if name.partition("/")[0] in ("generator", "discriminator")}
    if "kept" in tensors and (missing := networks - tensors["kept"].keys()):
        raise ValueError(f"the state to come back to lacks {', '.join(sorted(missing))}")


def _refuse_other_numbers(live: dict[str, list[dict[str, Any]]], saved: dict[str, list[dict[str, Any]]]) -> None:
    """Raise ValueError where the settings of optimizers are not of the kind that these optimizers have."""
    if live.keys() != saved.keys() or any(len(live[name]) != len(saved[name]) for name in live):
        raise ValueError("it has other optimizers than this recipe makes")
    for name, groups in live.items():
        for group, other in zip(groups, saved[name], strict=True):
            for key, value in group.items():
                if key in other and not _alike(value, other[key]):
                    raise ValueError(f"{key} of {name.upper()}'s optimizer is {other[key]!r:.100}")


def _alike(live: Any, saved: Any) -> bool:
    if isinstance(live, list | tuple):
        return isinstance(saved, list) and len(saved) == len(live) and all(map(_alike, live, saved))
    if isinstance(live, bool) or not isinstance(live, int | float):
        return type(saved) is type(live)
    if isinstance(saved, bool) or not isinstance(saved, int | float):
        return False
    return math.isfinite(saved) or not math.isfinite(live)


def _may_begin(run: Path) -> list[Path]:
    """What an earlier attempt has left in the folder of a run that is to begin. Raises UserError where there is a run
    to be continued, or anything that is not a run's."""
    if checkpoint.checkpoints(run):
        raise UserError(
            Problem(
                "the folder holds a run with checkpoints",
                f"--run-dir {run}",
                f"continue it with: gantricks resume {run}, or name another folder",
            )
        )
    return folders.leavings(run)


def _opened(run: Path, plugins: Sequence[str | Path]) -> tuple[Manifest, Registry]:
    """What a run says of itself, and what its recipe's names are found in. Raises UserError where it is no run."""
    if not (run / RECIPE).is_file():
        what = "the folder is not a run: it has no recipe.toml" if run.is_dir() else "there is no such folder"
        where = legible(str(run))
        raise UserError(Problem(what, where, "name a folder that `gantricks train` made, such as runs/dcgan"))
    if legible(str(run)) != str(run):  # safetensors opens no such file
        hint = "rename it, or change into it and name it from there"
        raise UserError(Problem("the folder's name is not UTF-8", legible(str(run)), hint))
    manifest = read_manifest(run)
    registry = Registry([Path(p) for p in plugins])
    known = registry.names("tricks")
    problems = []
    for name, trick in manifest.tricks.items():
        if trick.use not in known and "sha256:" in trick.origin:
            path = trick.origin.partition(" sha256:")[0]
            hint = f"add --plugin {path} to the command"
            if not Path(path).is_file():
                hint += f", or where {Path(path).name} is now"
            problems.append(Problem(f"the run uses the trick {name!r} from a file", str(run), hint))
    if problems:
        raise UserError(*problems)
    return manifest, registry


def _as_begun(manifest: Manifest, device: str | None) -> list[str]:
    """Overrides that keep what "auto" was resolved to when the run began, perhaps on another machine."""
    overrides = [f"train.device={device}"] if device else []
    if manifest.precision:
        overrides.append(f"train.precision={manifest.precision}")
    if manifest.capture:
        overrides.append(f"train.capture={'off' if manifest.capture == 'off' else 'on'}")
    return overrides


@contextlib.contextmanager
def _where_data_is(run: Path, recipe: Recipe, command: str) -> Iterator[None]:
    """Where the data of a run is not found, the user hears how to say where it is now."""
    try:
        yield
    except UserError as error:
        keys = getattr(recipe.data.found.cls, "paths", ())
        place = recipe.places.of("data", *keys[:1])
        if not keys or place.startswith("--set"):
            raise
        how = f"where the data has moved: gantricks {command} {run} --set data.{keys[0]}=PATH"
        raise UserError(
            *(
                replace(problem, hint=f"{problem.hint}; {how}" if problem.hint else how)
                if problem.where.startswith(f"{place}:")
                else problem
                for problem in error.problems
            )
        ) from error


def _with_all_kept(recipe: Recipe) -> Recipe:
    """The recipe of a run that was begun when all checkpoints were kept keeps them."""
    if "keep" in recipe.train.model_fields_set:
        return recipe
    return replace(recipe, train=recipe.train.model_copy(update={"keep": "all"}))


def _rewrite(run: Path, former: Recipe, recipe: Recipe) -> None:
    """Write the run's recipe anew where it has changed. One that the user has written in is kept beside it."""
    if recipe.as_dict() == former.as_dict():
        return
    path = run / RECIPE
    there = path.read_bytes()
    if there != former.as_toml().encode():
        write_whole(free_name(path.with_name(f"{RECIPE}.replaced")), there)
    write_whole(path, recipe.as_toml())


def _checkpoint(run: Path, step: int | None) -> Path:
    found = checkpoint.checkpoints(run)
    if not found:
        raise UserError(Problem("the run has no checkpoint yet", str(run), f"continue it with: gantricks resume {run}"))
    if step is None:
        return list(found.values())[-1]
    if step not in found:
        there = ", ".join(map(str, found))
        raise UserError(Problem(f"there is no checkpoint at step {step}", f"--step {step}", f"there are: {there}"))
    return found[step]


def versions() -> dict[str, str]:
    return {
        "gantricks": gantricks.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _differences(manifest: Manifest, plan: Plan, placement: Placement, data: dict[str, Any]) -> Iterator[str]:
    """What has changed since the run began and may change its numbers."""
    if not manifest.format and manifest.gantricks:
        yield "the run began with the random draws of an earlier version; it goes on with others"
    for planned in plan.tricks:
        then = manifest.tricks[planned.name].origin if planned.name in manifest.tricks else planned.origin
        if _identity(then) != _identity(legible(planned.origin)):
            yield f"the trick {planned.name} was {then} and is now {planned.origin}; the run goes on differently"
    if changed := _other_data(manifest.data, data):
        yield f"{changed}; the run goes on differently"
    now = {**versions(), "device": str(placement.device), "precision": placement.precision}
    for fact in ("gantricks", "torch", "device", "precision"):
        then = getattr(manifest, fact)
        if then is not None and then != now[fact]:
            changed = f"the run began with {fact} {then} and goes on with {now[fact]}"
            yield f"{changed}; its numbers may differ in the last bits"


def _identity(origin: str) -> str:
    """What makes a trick of this origin the same: of a file its content, wherever it is."""
    return origin.rpartition(" sha256:")[2]


def _data_facts(dataset: Dataset, description: Description) -> dict[str, Any]:
    """The manifest's account of the data."""
    return {
        "count": len(dataset.samples),
        "shape": list(description.shape),
        "class_names": [legible(name) for name in description.class_names],
        "held_out": description.held_out,
        "fingerprint": _fingerprint(dataset.samples),
        "labels": None if dataset.classes is None else _fingerprint(dataset.classes),
    }


def _other_data(then: DataFacts, now: Mapping[str, Any]) -> str:
    """A sentence where the data is not that with which the run began, as far as that is known."""
    if then.fingerprint not in (None, now["fingerprint"]):
        return f"the data is not that of the beginning: {then.count} samples then, {now['count']} now"
    if then.class_names is not None and list(then.class_names) != now["class_names"]:
        names = (", ".join(names) or "none" for names in (then.class_names, now["class_names"]))
        return "the classes of the data are not those of the beginning: {} then, {} now".format(*names)
    if then.labels is not None and then.labels != now["labels"]:
        return "the data is not that of the beginning: the same samples have other classes now"
    return ""


def _same_form(plan: Plan, trained: Description | None) -> None:
    """Raises UserError where the samples are not of the shape of those that the run was begun with."""
    if trained and trained.shape != plan.description.shape:
        on_data(replace(plan, description=replace(plan.description, shape=trained.shape)), plan.description)


def _fingerprint(rows: np.ndarray) -> str:
    """A sum over the samples: all of them, or a thousand spread over a set that is large."""
    if rows.nbytes > FINGERPRINTED:
        rows = rows[np.linspace(0, len(rows) - 1, 1000).astype(int)]
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
