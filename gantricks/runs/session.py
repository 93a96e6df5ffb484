"""The loop around the step: logging, pictures, checkpoints and the end of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gantricks import store
from gantricks.catalogue.imports import in_words
from gantricks.data.base import Dataset
from gantricks.data.images import compiler_cache
from gantricks.data.stand_in import POINTS
from gantricks.engine import capture, state
from gantricks.engine.capture import Capturing
from gantricks.engine.game import Game
from gantricks.engine.guard import NonFinite
from gantricks.engine.start import start
from gantricks.engine.subject import measure
from gantricks.errors import Diverged, Problem, UserError, legible
from gantricks.networks.base import count_parameters
from gantricks.planning.device import Placement, peak_memory
from gantricks.planning.plan import Plan
from gantricks.runs import checkpoint, limits, signals
from gantricks.runs.loggers import Ended, Loggers
from gantricks.runs.manifest import identity, read_manifest, versions, write_manifest
from gantricks.runs.reporter import Reporter, Result
from gantricks.runs.restore import Saved, load_state
from gantricks.runs.samples import GRID, picture


class _Interrupted(BaseException):
    """A signal has come while metrics were measured. A metric must not catch it."""


class Session:
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
        """`facts`, the resolved recipe among them, are written into the manifest, and `session` into its entry for this
        session.
        """
        self.run, self.plan, self.dataset, self.reporter = run, plan, dataset, reporter
        self.facts, self.session = facts, session or {}
        self.train = plan.recipe.train
        self.placement = placement
        self.ending = ending
        self.game: Game | None = None
        self.capturing: Capturing | None = None
        self.measured_at: int | None = None
        """The step after which the metrics were measured last."""
        self.unmeasured = False
        self._own: dict[str, str] = {}
        self.loggers = Loggers(plan.loggers, reporter.warn)

    def play(self, saved: Saved | None) -> Result:
        backend = capture.backend(self.plan, self.placement)
        if backend == capture.INDUCTOR and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            # before an optimizer is made, because torch then imports its compiler, which reads this variable
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(compiler_cache())
        with self.ending.patiently(), self.placement.computing(), self._memory(), limits.disk(self.run):
            self.game = game = start(self.plan, self.dataset, self.placement)
            if backend:
                game.play = self.capturing = Capturing(game, backend, self.reporter.capturing)
            if saved:
                load_state(game, saved, self.run)
            if self.plan.recipe.evaluate.due(game.finished) and not (saved and saved[1].get("unmeasured")):
                self.measured_at = game.finished  # before its checkpoint was written; at step 0 nothing is measured
            self._play(game, saved)
        return Result(
            self.run,
            game.finished,
            game.steps,
            self.ending.number,
            game.stop_reason if game.finished < game.steps else None,
            peak_memory(self.placement.device),
            game.restored_step,
            self.unmeasured,
        )

    def _play(self, game: Game, saved: Saved | None) -> None:
        from gantricks.runs.logs import Log  # imports TensorBoard, which nothing else needs

        parameters = {role: count_parameters(getattr(game, role)) for role in ("generator", "discriminator")}
        began, first = time.time(), game.finished
        known = read_manifest(self.run).id or (saved[1].get("run") if saved else None)
        # a run with checkpoints from before ids were introduced has none
        own = known if known or saved else identity(self.plan, self.placement, self.facts["data"]["fingerprint"])
        self._own = {"run": own} if own else {}
        self._write_manifest(parameters, first, None, began)
        with self.loggers.told(self.run, self.facts["recipe"], first, lambda error: self._ended(game, error)):
            log = Log(self.run, self.plan.recipe, first)
            try:
                self.reporter.started(game, self.run, parameters)
                for note in self.dataset.notes:
                    self.reporter.warn(f"[data]: {note}")
                with checkpoint.Writer() as self.writer, game.training():
                    self._loop(game, log)
            except BaseException:
                # the original error is reported, not one that follows from it
                with contextlib.suppress(OSError):
                    log.close()
                with contextlib.suppress(OSError):
                    self._write_manifest(parameters, first, game.finished, began)
                raise
            finally:
                self.reporter.close()
            log.close()
            self._write_manifest(parameters, first, game.finished, began)

    def _ended(self, game: Game, error: BaseException | None) -> Ended:
        """Return what loggers are told of how training has ended."""
        step, number, early = game.finished, self.ending.number, game.finished < game.steps
        at_once = number is not None and isinstance(error, KeyboardInterrupt | SystemExit)
        if error is not None and not at_once:
            problems = error.problems if isinstance(error, UserError) else []
            return step, "failed", "; ".join(problem.what for problem in problems) or in_words(error)
        if number is not None and (at_once or early or self.unmeasured):
            return step, "interrupted", signal.Signals(number).name
        return (step, "stopped", game.stop_reason) if early and game.stop_reason else (step, "finished", "")

    def _loop(self, game: Game, log: Any) -> None:
        train = self.train
        if self._is_due(game) and not self._measure(game, log):
            self._save(game, log)
            return
        mark, mark_step = time.perf_counter(), game.finished
        while game.finished < game.steps and game.advance():
            step = game.finished
            last = step == game.steps
            if step % train.log_every == 0 or last:
                scalars, non_finite = game.scalars()
                if non_finite:
                    self._stop_at(non_finite, game)
                now = time.perf_counter()
                speed = (step - mark_step) / (now - mark)
                mark, mark_step = now, step
                log.scalars(step, scalars, speed)
                self.loggers.scalars(step, scalars)
                self.reporter.logged(step, scalars, speed)
                self._pass_on_warnings(game)
            self.reporter.stepped(step)
            self.writer.check()
            if last:
                break  # the run ends anyway, with or without a signal
            if self._is_due(game):
                began = time.perf_counter()
                self._measure(game, log)
                mark += time.perf_counter() - began  # it is no part of the speed
                if game.stop_reason:
                    break  # no checkpoint before the end: a run that is resumed from it would go on
            if step % train.sample_every == 0:
                self._picture(game, log)
            interrupted = (
                self.ending.number is not None
            )  # read once: a signal that comes later is handled after the next step
            if step % train.checkpoint_every == 0 or interrupted:
                self._save(game, log)
            if interrupted:
                return
        if self.plan.measured and self.measured_at != game.finished and not self._measure(game, log):
            self._save(game, log)
            return
        game.finish()
        self._picture(game, log)
        self._save(game, log)

    def _is_due(self, game: Game) -> bool:
        return self.plan.recipe.evaluate.due(game.finished) and self.measured_at != game.finished

    def _measure(self, game: Game, log: Any) -> bool:
        """Measure the metrics of the present state. Returns False where a signal comes first: the checkpoint that is
        written then tells it, and a resumed run begins with them.
        """
        if non_finite := game.non_finite():
            self._stop_at(non_finite, game)
        step, began = game.finished, time.perf_counter()

        def progress(what: str, done: int, total: int) -> None:
            if self.ending.number is not None:
                raise _Interrupted
            self.reporter.measuring(what, done, total)

        try:
            progress("measuring", 0, len(self.plan.measured))
            figures, problems = measure(game, progress)
        except _Interrupted:
            self.unmeasured = True
            return False
        self.measured_at = step
        if log.figures(step, figures):
            self.loggers.scalars(step, figures)
        self.reporter.measured(step, figures, time.perf_counter() - began)
        game.warnings += problems
        game.measured(figures)
        self._pass_on_warnings(game)
        return True

    def _pass_on_warnings(self, game: Game) -> None:
        for sentence in game.warnings:
            self.reporter.warn(f"step {game.finished}: {sentence}")
        game.warnings.clear()

    def _picture(self, game: Game, log: Any) -> None:
        count = GRID if game.feed.is_images else POINTS
        drawn = picture(game, count, self.plan.recipe.seed)
        log.picture(game.finished, drawn)
        self.loggers.picture(game.finished, drawn)

    def _save(self, game: Game, log: Any) -> None:
        if non_finite := game.non_finite():
            self._stop_at(non_finite, game)
        name = checkpoint.checkpoint_name(game.finished)
        owing = {"unmeasured": True} if self.unmeasured else {}
        self.writer.save(
            self.run / "checkpoints" / name,
            state.tensors(game),
            self._own | state.counters(game) | owing,
            first=log.flush,
            then=self._remove_oldest,
        )

    def _remove_oldest(self) -> None:
        if self.train.keep != "all":
            checkpoint.keep_newest(self.run, self.train.keep)

    def _stop_at(self, found: NonFinite, game: Game) -> None:
        """Save the state from before a non-finite value in a folder of its own, and report the value."""
        folder = self.run / "fault" / checkpoint.checkpoint_name(found.step)
        before = {"step": found.step - 1, "phase": found.player, "images_seen": game.cursors[found.step - 1]}
        store.save(folder, state.tensors(game), self._own | state.counters(game) | before)
        names = [found.in_words(name) for name in found.names]
        raise Diverged(
            Problem(
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not finite at step {found.step}; "
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
        } | ({"state_from_step": self.game.restored_step} if self.game.restored_step is not None else {})
        facts = {
            **({"id": self._own["run"]} if self._own else {}),
            **versions(),
            "device": str(self.placement.device),
            "device_name": str(self.placement),
            "precision": self.placement.precision,
            "capture": (self.capturing and self.capturing.backend) or "off",
            "threads": self.placement.threads,
            "seed": self.plan.recipe.seed,
            "parameters": parameters,
            "tricks": {p.name: {"use": p.use, "origin": legible(p.origin)} for p in self.plan.tricks},
            "loggers": {p.name: {"use": p.use, "origin": legible(p.origin)} for p in self.plan.loggers},
            **self.facts,
            "sessions": [*earlier, session],
        }
        write_manifest(self.run, facts)

    def _memory(self) -> contextlib.AbstractContextManager[None]:
        def batch_size() -> int:
            return self.game.feed.batch_size if self.game else self.plan.recipe.data.keys.batch_size

        return limits.memory(self.run, self.placement.device, batch_size)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
