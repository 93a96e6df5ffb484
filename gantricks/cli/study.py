"""`gantricks ablate` and `gantricks sweep`: show the progress of a study, and its table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table as Grid

from gantricks.cli.console import Text, errors, output, typed, write_command, write_json
from gantricks.cli.plans import write_warning
from gantricks.cli.progress import BETWEEN_DRAWINGS, clock
from gantricks.study import Reporter, Table, words
from gantricks.study.folder import Outcome
from gantricks.study.playing import Interrupted
from gantricks.study.table import tone
from gantricks.study.variants import Design

STYLES = {"good": "green", "bad": "red", "same": "", "open": "bright_black"}
"""The style of a verdict, by its tone. What is not established is grey."""


def study(make: Callable[..., tuple[Path, Table]], recipe: str, *given: Any, json: bool, **how: Any) -> int:
    """Make or finish a study, by `ablate` or `sweep`, and show its table. Returns the exit status: 1 when runs have
    failed.
    """
    console = errors() if json else output()
    screen = Screen(console)
    try:
        path, table = make(recipe, *given, reporter=screen, **how)
    except Interrupted as end:
        return write_interrupted(console, end)
    if json:
        write_json(table.as_dict() | {"folder": str(path)})
    else:
        write_table(console, table)
        console.print()
        console.print(f"The study is kept in {path}: results.md, results.json, results.png.", soft_wrap=True)
    return int(bool(table.failed))


def write_interrupted(console: Console, end: Interrupted, units: str = "runs") -> int:
    """Say how to go on with a study that a signal has ended. Returns the exit status."""
    told = f"Interrupted after {end.done} of {end.total} {units}; those under way are saved. To go on:"
    console.print(Text(told, "yellow"))
    write_command(console, typed(["gantricks", *sys.argv[1:]]))
    return 128 + end.number


def write_table(console: Console, table: Table) -> None:
    """Write the table of a study, with remarks."""
    console.print()
    console.print(Text.assemble((table.name, "bold"), f" {table.mode}: {words.headline(table)}"))
    _write_grid(console, words.columns(table), words.rows(table))
    if table.interactions:
        console.print(Text("what two tricks do together beyond what each does without the other", "dim"))
        _write_grid(console, words.interaction_columns(table), words.interactions(table))
    for sentence in words.remarks(table):
        console.print(Text(sentence, "dim"))


def _write_grid(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for position, column in enumerate(columns):
        named = position in (0, len(columns) - 1)
        grid.add_column(column, no_wrap=not named, overflow="fold", justify="left" if named else "right")
    for row in rows:
        *cells, verdict = row
        grid.add_row(*cells, Text(verdict, STYLES[tone(verdict)]))
    console.print(Padding(grid, (1, 0, 1, 2), expand=False))


class Screen(Reporter):
    """Shows a study: on a terminal a bar over all of its runs, elsewhere a line for every run."""

    units = "runs"

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._total = self._before = 0
        self._began = self._drawn = 0.0

    def planned(self, folder: Path, design: Design, seeds: Mapping[str, Sequence[int]], done: int) -> None:
        names, reference = ", ".join(seeds), design.reference.name
        each = len(seeds[next(name for name in seeds if name != reference)])
        control = len(seeds[reference])
        words = f"{len(seeds)} variants ({names}), {each} runs each" + (
            f", of {reference} {control}" if control != each else ""
        )
        why = [f"{v.name} cannot be trained: {v.impossible}" for v in design.variants if v.impossible]
        self.designed(folder, words, sum(map(len, seeds.values())), done, why)

    def foreseen(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True, markup=False)

    def designed(self, folder: Path, words: str, total: int, done: int, warnings: Sequence[str]) -> None:
        self._total, self._before, self._began = total, done, time.monotonic()
        self.console.print(f"{words}: {total} {self.units}", soft_wrap=True)
        for sentence in warnings:
            write_warning(self.console, sentence)
        again = f"; {done} of the {self.units} are finished already" if done else ""
        self.console.print(f"the study is kept in {folder}{again}", soft_wrap=True)
        if self.console.is_terminal:
            # redrawn by calls, because a thread that redraws would compete with the runs
            self._bar = Progress(
                BarColumn(None),
                TextColumn("{task.fields[words]}", markup=False),
                console=self.console,
                auto_refresh=False,
                transient=True,
                expand=True,
            )
            self._bar.add_task("", total=self._total, words="")
            self._bar.start()

    def stepped(self, runs: int, steps: float) -> None:
        now = time.monotonic()
        if self._bar is None or now - self._drawn < BETWEEN_DRAWINGS:
            return
        self._drawn = now
        told = f"{runs}/{self._total} {self.units}{self.eta(runs + steps)}"
        self._bar.update(self._bar.task_ids[0], completed=runs + steps, words=told, refresh=True)

    def finished(self, outcome: Outcome, done: int, total: int) -> None:
        if self._bar is not None and outcome.status == "done":
            return
        said = f"{outcome.value:.5g}" if outcome.value is not None else f"{outcome.status}: {outcome.reason}"
        line = f"run {done}/{total}  {outcome.variant} seed {outcome.seed}  {said}{self.eta(done)}"
        self.console.print(Text(line, "" if outcome.status == "done" else "yellow"), soft_wrap=True)

    def warn(self, sentence: str) -> None:
        write_warning(self.console, sentence)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def eta(self, done: float) -> str:
        """Return the time that is left at the present pace, to stand at the end of a line; nothing at the start."""
        fresh = done - self._before
        if fresh <= 0:
            return ""
        return f"  ETA {clock((time.monotonic() - self._began) / fresh * (self._total - done))}"
