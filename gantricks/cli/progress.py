"""Shows the progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gantricks.cli.console import number
from gantricks.cli.plans import write_plan, write_warning
from gantricks.errors import printable
from gantricks.metrics.base import figure_of
from gantricks.planning.device import Placement
from gantricks.planning.plan import Plan
from gantricks.runs.reporter import Reporter

if TYPE_CHECKING:
    from gantricks.engine.game import Game

BETWEEN_DRAWINGS = 0.25
BETWEEN_LINES = 10.0


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pace(steps_per_second: float) -> str:
    """Format a speed with three digits, or as seconds per step where a step takes long."""
    if steps_per_second >= 1:
        return f"{steps_per_second:.3g} steps/s" if steps_per_second < 1000 else f"{steps_per_second:,.0f} steps/s"
    return f"{1 / steps_per_second:.3g} s/step" if steps_per_second > 0 else ""


def _main_figures(figures: Mapping[str, float]) -> list[str]:
    """Return the main figure of each metric in words."""
    found: dict[str, str] = {}
    for name, value in figures.items():
        metric, figure = figure_of(name) or (name, name)
        label = metric if figure == metric else f"{metric} {figure}"
        found.setdefault(metric, f"{label} {number(value)}")
    return list(found.values())


class Screen(Reporter):
    """Shows a run. `began` is the time of its first step, None when there was nothing to do."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began: float | None = None
        self.seconds = 0.0
        self._bar: Progress | None = None
        self._drawn = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=40)
        self._finished = 0
        self._losses = ""
        self._figure = ""
        self._measuring: float | None = None
        self._reading: str | None = None
        self._steps = 0
        self._begun = 0
        self._counts: dict[str, int] = {}

    def planned(self, plan: Plan, placement: Placement) -> None:
        self._steps = plan.recipe.train.steps
        self._counts = plan.parameters()
        write_plan(self.console, plan, placement)

    def reading(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        fresh, over = what != self._reading, done >= total
        if self.console.is_terminal:
            if fresh:
                self._erase()
                self._reading = what
                self._start(what, total)
            if over or now - self._drawn >= BETWEEN_DRAWINGS:
                self._draw(done, f"{done:,}/{total:,}")
            if over:
                self._erase()
            return
        if fresh:
            self._reading, self._drawn = what, now
        if over or now - self._drawn >= BETWEEN_LINES:
            self._drawn = now
            self.console.print(f"{what}: {done:,} of {total:,}")
        if over:
            self._reading = None

    def started(self, game: Game, run: Path, parameters: dict[str, int]) -> None:
        self._erase()
        changed = [f"{role} {count:,}" for role, count in parameters.items() if count != self._counts.get(role)]
        if changed:
            self.console.print(f"parameters after the tricks' surgery: {', '.join(changed)}", soft_wrap=True)
        whence = f", from step {game.finished:,}" if game.finished else ""
        self.console.print(f"the run is kept in {run}{whence}", soft_wrap=True)
        self.began = time.monotonic()
        self._begun = self._finished = game.finished
        self._recent.append((self.began, game.finished))
        if self.console.is_terminal:
            self._start("", self._steps)
            self._draw(game.finished, self._count(game.finished))

    def capturing(self, what: str) -> None:
        if self._bar is not None:
            self._draw(self._begun, f"{what}: a minute or less, then the run is faster")
        else:
            self.console.print(f"{what}: a minute or less, then the run is faster")

    def stepped(self, finished: int) -> None:
        self._finished = finished
        if self._bar is None or (now := time.monotonic()) - self._drawn < BETWEEN_DRAWINGS:
            return
        self._recent.append((now, finished))
        (then, before), (_, step) = self._recent[0], self._recent[-1]
        speed = (step - before) / (now - then)
        newest = f"{self._losses}{self._figure}"
        self._draw(finished, f"{self._count(finished)}  {pace(speed)}  {self._left(finished, speed)}{newest}")

    def logged(self, finished: int, scalars: dict[str, float], steps_per_second: float) -> None:
        losses = "  ".join(
            f"{player.upper()} {scalars[f'loss/{player}']:.3f}" for player in "dg" if f"loss/{player}" in scalars
        )
        self._losses = f"  {losses}"
        if not self.console.is_terminal:
            left = self._left(finished, steps_per_second)
            self.console.print(f"step {finished}/{self._steps}  {losses}  {pace(steps_per_second)}  {left}")

    def measuring(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self._measuring is None:
            self._measuring = now
        if self._bar is not None:
            if now - self._drawn >= BETWEEN_DRAWINGS:
                self._draw(self._finished, f"{self._count(self._finished)}  {what}: {done:,}/{total:,}")
        elif now - self._measuring >= BETWEEN_LINES:
            self._measuring = now
            self.console.print(f"{what}: {done:,} of {total:,}")

    def measured(self, finished: int, figures: Mapping[str, float], seconds: float) -> None:
        self._measuring = None
        self._recent.clear()  # the seconds that it took are no part of the speed
        self._recent.append((time.monotonic(), finished))
        found = _main_figures(figures)
        self._figure = f"  {found[0]}" if found else ""
        if not self.console.is_terminal:
            self.console.print(f"step {finished}/{self._steps}  {'  '.join(found)}  measured in {seconds:.1f} s")

    def warn(self, sentence: str) -> None:
        write_warning(self.console, sentence)

    def close(self) -> None:
        self._erase()
        if self.began is not None and not self.seconds:
            self.seconds = time.monotonic() - self.began

    def _count(self, finished: int) -> str:
        total = f"{self._steps:,}"
        return f"{finished:>{len(total)},}/{total}"

    def _left(self, finished: int, speed: float) -> str:
        return f"ETA {clock((self._steps - finished) / speed)}" if speed > 0 else ""

    def _start(self, what: str, total: int) -> None:
        # redrawn by calls, because a thread that redraws would compete with the run for the interpreter
        columns = [TextColumn("{task.description}", markup=False)] if what else []
        self._bar = Progress(
            *columns,
            BarColumn(None),
            TextColumn("{task.fields[words]}", markup=False),
            TextColumn("  "),  # room for ^C, which the terminal echoes; beyond the edge it would break the line
            console=self.console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._bar.add_task(printable(what), total=total, words="")
        self._bar.start()

    def _draw(self, done: int, words: str) -> None:
        if self._bar is None:
            return
        self._drawn = time.monotonic()
        self._bar.update(self._bar.task_ids[0], completed=done, words=words, refresh=True)

    def _erase(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
