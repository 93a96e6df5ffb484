"""The loop around the step: folders, signals, logging, pictures, checkpoints. Training, resuming and sampling."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from PIL.Image import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import gantricks
from gantricks import capture, checkpoint, pictures
from gantricks.data.base import Dataset, Progress, silent
from gantricks.device import Placement, out_of_memory, peak_memory, place
from gantricks.errors import Diverged, Problem, UserError
from gantricks.files import write_whole
from gantricks.game import Game
from gantricks.guard import Fault
from gantricks.networks.base import count_parameters
from gantricks.plan import Plan, make_plan
from gantricks.recipe import Recipe, RecipeError, load_recipe
from gantricks.registry import Registry
from gantricks.rng import Rng

RECIPE, MANIFEST, LOCK = "recipe.toml", "manifest.json", ".lock"
GRID = 64


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
        return sorted((self.run / "samples").glob("*.png"))


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
    plan, placement = plan_recipe(recipe, overrides, Registry([Path(p) for p in plugins]))
    reporter.planned(plan, placement)
    run = _new_folder(Path(run_dir) if run_dir else None, plan.recipe.name)
    with _locked(run):
        try:
            with _sigterm_raises():
                dataset = plan.source.load(reporter.reading)
        except BaseException:
            _give_back(run)
            raise
        _set_aside(run)
        write_whole(run / RECIPE, plan.recipe.as_toml())
        return _Session(run, plan, dataset, placement, reporter).play(None)


def resume(
    run: str | Path,
    *,
    step: int | None = None,
    device: str | None = None,
    plugins: Sequence[str | Path] = (),
    reporter: Reporter | None = None,
) -> Result:
    """Continue a run from its newest checkpoint, or from the one at `step`; from the beginning when it has none.

    The result is bit-identical to a run that was never stopped, on the same machine, torch version, device and number
    of threads. Raises UserError when the folder is not a run, or the checkpoint is damaged.
    """
    reporter = reporter or Reporter()
    folder = Path(run)
    recipe, manifest, registry = _open(folder, device, plugins)
    plan, placement = prepare(recipe, registry)
    placement = replace(placement, threads=manifest.get("threads", placement.threads))
    with _locked(folder):
        start = _checkpoint(folder, step) if step is not None or checkpoint.checkpoints(folder) else None
        saved = checkpoint.load(start) if start else None
        if saved and saved[1]["step"] >= recipe.train.steps:
            step, steps = saved[1]["step"], recipe.train.steps
            return Result(folder, step, steps, state_from=saved[1].get("state_from_step"))
        reporter.planned(plan, placement)
        dataset = plan.source.load(reporter.reading)
        for sentence in _differences(manifest, plan, placement, dataset):
            reporter.warn(sentence)
        if saved:
            checkpoint.set_aside_after(folder, saved[1]["step"])
        return _Session(folder, plan, dataset, placement, reporter).play(saved)


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
    """The game of a run at its newest checkpoint, or the one at `step`; nothing is written.

    Raises UserError when the folder is not a run, or its checkpoint is damaged or not there.
    """
    folder = Path(run)
    plan, placement, _ = open_run(folder, device, plugins)
    return saved_game(folder, plan, placement, step)


def open_run(
    run: Path, device: str, plugins: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[Plan, Placement, Registry]:
    """The plan of a run that is to be looked at, where to compute, and what its names were found in.

    `overrides` are `KEY=VALUE` strings that go over the run's recipe.

    Raises UserError when the folder is not a run, or what its recipe names is not there.
    """
    recipe, _, registry = _open(run, device, plugins, overrides)
    return *prepare(recipe, registry, to_train=False), registry


def saved_game(
    run: Path,
    plan: Plan,
    placement: Placement,
    step: int | None = None,
    reading: Progress = silent,
    warn: Callable[[str], None] = lambda sentence: None,
) -> Game:
    """The game of a run at its newest checkpoint, or the one at `step`; nothing is written.

    `warn` is told where the data is not that of the training. Raises UserError when there is no such checkpoint, when
    it is damaged, or when it does not fit the recipe.
    """
    saved = checkpoint.load(_checkpoint(run, step))
    dataset = plan.source.load(reading)
    if changed := _other_data(_read_manifest(run), dataset):
        warn(changed)
    game = Game(plan, dataset, placement)
    _take_up(game, saved, run)
    return game


def plan_recipe(recipe: str | Path, overrides: Iterable[str], registry: Registry) -> tuple[Plan, Placement]:
    """Load a recipe and plan it.

    Raises UserError with every problem: those of the keys, and those of what the right keys ask for.
    """
    try:
        return prepare(load_recipe(recipe, overrides, registry), registry)
    except RecipeError as fault:
        problems = list(fault.problems)
        if fault.rest:
            try:
                prepare(fault.rest, registry)
            except UserError as further:
                problems += [problem for problem in further.problems if problem not in problems]
        raise UserError(*problems) from None


def prepare(recipe: Recipe, registry: Registry, *, to_train: bool = True) -> tuple[Plan, Placement]:
    """The plan of a recipe and where it computes. Raises UserError with the problems of both."""
    problems: list[Problem] = []
    plan = placement = None
    try:
        parts: list[Any] = [recipe.data, recipe.generator, recipe.discriminator, *recipe.tricks, *recipe.metrics]
        named = [part.found.name for part in parts]
        plan = make_plan(recipe, registry.warnings(named), to_train=to_train)
    except UserError as fault:
        problems += fault.problems
    try:
        convolutions = plan is not None and plan.convolutions
        products = plan.products if plan is not None else None
        where = recipe.places.of("train", "device")
        placement = place(recipe.train.device, recipe.train.precision, where, convolutions, products)
    except UserError as fault:
        problems += fault.problems
    if not plan or not placement:
        raise UserError(*problems)
    return plan, placement


LARGE = 1 << 22
"""Weights from which on drawing them, and a pass of a whole batch, take so long that `check` does without."""


def _is_large(plan: Plan) -> bool:
    return sum(plan.parameters().values()) >= LARGE


class _Repeating(Rng):
    """Draws of which every row is the same: made in no time, and enough to see what surgery makes of a network."""

    def fork(self, name: str) -> Rng:
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
    draw, shape = np.random.default_rng(0), plan.description.shape
    count, classes = min(plan.description.count, most), plan.description.classes
    if plan.description.is_images:
        channels, height, width = shape
        samples = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    else:
        samples = draw.standard_normal((count, *shape)).astype(np.float32)
    _Surgery(plan, Dataset(samples, np.arange(count) % classes if classes else None), place("cpu", "fp32"))


def picture(game: Game, count: int, seed: int) -> Image:
    """A grid of samples, or a scatter plot over the real points for vector data."""
    samples = game.sample(count, seed)
    if game.feed.is_images:
        classes = game.generator.classes
        # a column holds one class, and the grid is as near to a square as that allows
        columns = classes * max(1, round(math.sqrt(count) / classes)) if 0 < classes <= count else None
        return pictures.image_grid(pictures.to_pixels(samples), columns=columns)
    return pictures.scatter(samples, reference=np.asarray(game.dataset.samples[:POINTS]))


FINGERPRINTED = 1 << 28
"""Bytes of samples up to which the manifest's fingerprint covers all of them."""

POINTS = 2500
"""How many points a scatter plot shows of each distribution."""


class _Session:
    """One process's part of a run."""

    def __init__(self, run: Path, plan: Plan, dataset: Dataset, placement: Placement, reporter: Reporter) -> None:
        self.run, self.plan, self.dataset, self.reporter = run, plan, dataset, reporter
        self.train = plan.recipe.train
        self.placement = placement
        self.signal: int | None = None
        self.game: Game | None = None

    def play(self, saved: tuple[dict[str, Any], dict[str, Any]] | None) -> Result:
        from gantricks.logs import Log  # imports TensorBoard, which only a run needs

        with self._signals(), self.placement.computing(), self._memory_suffices():
            self.game = game = Game(self.plan, self.dataset, self.placement)
            game.backend = capture.backend(self.plan, self.placement)
            game.announce = self.reporter.capturing
            if saved:
                _take_up(game, saved, self.run)
            parameters = {role: count_parameters(getattr(game, role)) for role in ("generator", "discriminator")}
            began, first = time.time(), game.finished
            self._write_manifest(parameters, first, None, began)
            log = Log(self.run, self.plan.recipe, first)
            self.reporter.started(game, self.run, parameters)
            try:
                with checkpoint.Writer() as self.writer, game.training():
                    self._loop(game, log)
            finally:
                self.reporter.close()
                log.close()
                self._write_manifest(parameters, first, game.finished, began)
        return Result(
            self.run,
            game.finished,
            game.steps,
            self.signal,
            game.frame.stop_reason,
            peak_memory(self.placement.device),
            game.state_from,
        )

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
            interrupted = self.signal is not None  # looked at once: a signal that comes later has its own step
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
        self.writer.save(self.run / "checkpoints" / name, game.state(), game.counters(), first=log.flush)

    def _stop_at(self, fault: Fault, game: Game) -> None:
        """Leave the state from before the fault where it can be looked at, and say what happened."""
        folder = self.run / "fault" / checkpoint.checkpoint_name(fault.step)
        before = {"step": fault.step - 1, "phase": fault.player, "images_seen": game.cursors[fault.step - 1]}
        checkpoint.save(folder, game.state(), game.counters() | before)
        names = [
            f"the norm of {fault.player.upper()}'s gradient"
            if name == "gradient_norm"
            else f"the loss term {fault.player}.{name}"
            for name in fault.names
        ]
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
        path = self.run / MANIFEST
        manifest = _read_manifest(self.run)
        earlier = [session for session in manifest.get("sessions", []) if session.get("began") != _date(began)]
        session = {
            "argv": sys.argv,
            "began": _date(began),
            "ended": _date(time.time()) if finished is not None else None,
            "from_step": first,
            "to_step": finished,
            "peak_memory": peak_memory(self.placement.device) if finished is not None else None,
        } | ({"state_from_step": self.game.state_from} if self.game.state_from is not None else {})
        manifest = {
            **versions(),
            "device": str(self.placement.device),
            "device_name": str(self.placement),
            "precision": self.placement.precision,
            "capture": self.game.backend or "off",
            "threads": self.placement.threads,
            "seed": self.plan.recipe.seed,
            "parameters": parameters,
            "tricks": {p.name: {"use": p.use, "origin": p.origin} for p in self.plan.tricks},
            "data": {"count": len(self.dataset.samples), "fingerprint": _fingerprint(self.dataset)},
            "sessions": [*earlier, session],
        }
        write_whole(path, json.dumps(manifest, indent=1) + "\n")

    @contextlib.contextmanager
    def _memory_suffices(self) -> Iterator[None]:
        """Where it does not, the user hears of a batch size that may fit."""
        try:
            yield
        except Exception as fault:
            asked = out_of_memory(fault)
            if asked is None:
                raise
            size = self.game.feed.batch_size if self.game else self.plan.recipe.data.keys.batch_size
            wanted = f": {asked} more were asked for" if asked else ""
            mend = "smaller networks or images need less"
            if size > 1:
                mend = f"try --set data.batch_size={size // 2}; {mend}, too"
            raise UserError(
                Problem(
                    f"the memory of {self.placement.device} does not suffice for batches of {size}{wanted}",
                    str(self.run),
                    mend,
                )
            ) from fault

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the present step, saved; a second one ends it at once."""

        def caught(number: int, frame: FrameType | None) -> None:
            if self.signal is not None:
                raise KeyboardInterrupt
            self.signal = number

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def _take_up(game: Game, saved: tuple[dict[str, Any], dict[str, Any]], run: Path) -> None:
    try:
        game.load(*saved)
    except (KeyError, ValueError) as fault:
        raise UserError(
            Problem(
                f"the checkpoint does not fit the recipe: {fault.args[0]}",
                str(run / RECIPE),
                "the recipe has changed since the checkpoint was written; put it back, or train afresh",
            )
        ) from fault


def _new_folder(wanted: Path | None, name: str) -> Path:
    """A folder for a new run; nothing that is there already is touched."""
    try:
        if wanted is None:
            Path("runs").mkdir(exist_ok=True)
            number = 1
            while True:
                folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                    return folder
                number += 1
        if checkpoint.checkpoints(wanted):
            raise UserError(
                Problem(
                    "the folder holds a run with checkpoints",
                    f"--run-dir {wanted}",
                    f"continue it with: gantricks resume {wanted}, or name another folder",
                )
            )
        wanted.mkdir(parents=True, exist_ok=True)
        return wanted
    except OSError as fault:
        raise UserError(
            Problem(
                f"the run's folder cannot be written: {fault.strerror}",
                str(fault.filename),
                "name another with --run-dir",
            )
        ) from fault


def _give_back(folder: Path) -> None:
    """Remove a folder that was made for a run which did not come about, unless it holds something."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()


def _set_aside(folder: Path) -> None:
    """Move what an attempt without checkpoints has left into a folder of its own."""
    left = [
        p for p in folder.iterdir() if p.name in (RECIPE, MANIFEST, "metrics.jsonl", "samples") or "tfevents" in p.name
    ]
    if not left:
        return
    if not (folder / MANIFEST).exists():
        names = ", ".join(sorted(path.name for path in left))
        raise UserError(
            Problem(
                f"the folder is no run of gantricks, and a run would overwrite what is in it: {names}",
                f"--run-dir {folder}",
                "name another folder",
            )
        )
    number = 1
    while (aside := folder / f"earlier-{number}").exists():
        number += 1
    aside.mkdir()
    for path in left:
        path.rename(aside / path.name)


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    try:
        file = (run / LOCK).open("w")
    except OSError as fault:
        raise UserError(Problem(f"the run's folder cannot be written: {fault.strerror}", str(run))) from fault
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            raise UserError(
                Problem("another process is training this run", str(run), "wait for it, or stop it")
            ) from fault
        yield


def _open(
    run: Path, device: str | None, plugins: Sequence[str | Path], overrides: Sequence[str] = ()
) -> tuple[Recipe, dict[str, Any], Registry]:
    if not (run / RECIPE).is_file():
        what = "the folder is not a run: it has no recipe.toml" if run.is_dir() else "there is no such folder"
        raise UserError(Problem(what, str(run), "name a folder that `gantricks train` made, such as runs/dcgan"))
    manifest = _read_manifest(run)
    registry = Registry([Path(p) for p in plugins])
    known = registry.names("tricks")
    for name, trick in manifest.get("tricks", {}).items():
        if trick["use"] not in known and "sha256:" in trick["origin"]:
            path = trick["origin"].partition(" sha256:")[0]
            raise UserError(
                Problem(f"the run uses the trick {name!r} from a file", str(run), f"add --plugin {path} to the command")
            )
    overrides = [*overrides, *([f"train.device={device}"] if device else [])]
    if "precision" in manifest:  # "auto" was resolved when the run began, perhaps on another machine
        overrides.append(f"train.precision={manifest['precision']}")
    if "capture" in manifest:
        overrides.append(f"train.capture={'off' if manifest['capture'] == 'off' else 'on'}")
    return load_recipe(run / RECIPE, overrides, registry), manifest, registry


def _read_manifest(run: Path) -> dict[str, Any]:
    """What a run's manifest says; nothing where a run has not got as far as writing one."""
    path = run / MANIFEST
    try:
        return _Manifest.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except FileNotFoundError:
        return {}
    except ValidationError as fault:
        raise UserError(
            Problem(
                f"the file is damaged: {fault.errors()[0]['msg']}",
                str(path),
                "without it the run can be resumed, but not with the certainty of the same numbers: rename it",
            )
        ) from fault


class _Manifest(BaseModel):
    """Those facts of a manifest that are read back."""

    model_config = ConfigDict(extra="allow", strict=True)

    threads: int = Field(default=1, ge=1, le=4096)
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    capture: Literal["off", "inductor", "cuda-graph"] = "off"
    tricks: dict[str, dict[Literal["use", "origin"], str]] = {}
    data: dict[str, str | int] = {}
    sessions: list[dict[str, Any]] = []


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


def _differences(manifest: dict[str, Any], plan: Plan, placement: Placement, dataset: Dataset) -> Iterator[str]:
    """What has changed since the run began and may change its numbers."""
    for planned in plan.tricks:
        then = manifest.get("tricks", {}).get(planned.name, {}).get("origin", planned.origin)
        if then != planned.origin:
            yield f"the trick {planned.name} was {then} and is now {planned.origin}; the run goes on differently"
    if changed := _other_data(manifest, dataset):
        yield f"{changed}; the run goes on differently"
    now = {**versions(), "device": str(placement.device), "precision": placement.precision}
    for fact in ("gantricks", "torch", "device", "precision"):
        if fact in manifest and manifest[fact] != now[fact]:
            yield (
                f"the run began with {fact} {manifest[fact]} and goes on with {now[fact]}; "
                "its numbers may differ in the last bits"
            )


def _other_data(manifest: dict[str, Any], dataset: Dataset) -> str:
    """A sentence where the data is not that with which the run began."""
    if manifest.get("data", {}).get("fingerprint", fingerprint := _fingerprint(dataset)) == fingerprint:
        return ""
    then, now = manifest["data"].get("count"), len(dataset.samples)
    return f"the data is not that of the beginning: {then} samples then, {now} now"


def _fingerprint(dataset: Dataset) -> str:
    """A sum over the samples: all of them, or a thousand spread over a set that is large."""
    rows = dataset.samples
    if rows.nbytes > FINGERPRINTED:
        rows = rows[np.linspace(0, len(rows) - 1, 1000).astype(int)]
    return hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """While nothing is there to be saved, SIGTERM ends the process as Ctrl-C does: cleaning up on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def caught(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, caught)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
