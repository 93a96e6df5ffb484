"""`gantricks tune`: show the progress of a search, and the best that it has found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid

from gantricks.cli.console import Text, errors, output, typed, write_command, write_json
from gantricks.cli.study import Screen, write_interrupted
from gantricks.study import search_words as words
from gantricks.study.folder import Outcome
from gantricks.study.playing import Interrupted
from gantricks.study.search import Search
from gantricks.study.trials import Trial
from gantricks.study.tune import BEST, tune


def search(recipe: str, space: Sequence[str], *, json: bool, plugins: Sequence[Path], **how: Any) -> int:
    """Make or finish a search and show what it has found. Returns the exit status: 1 when runs have failed, or no trial
    has a figure.
    """
    console = errors() if json else output()
    try:
        path, found = tune(recipe, space, plugins=plugins, reporter=SearchScreen(console), **how)
    except Interrupted as end:
        return write_interrupted(console, end, SearchScreen.units)
    if json:
        write_json(found.as_dict() | {"folder": str(path)})
    else:
        write_search(console, path, found, plugins)
    return int(bool(found.failed) or found.best is None)


def write_search(console: Console, path: Path, found: Search, plugins: Sequence[Path] = ()) -> None:
    """Write the best trials of a search, with remarks, and the command that trains the best."""
    console.print()
    console.print(Text.assemble((found.name, "bold"), f" tune: {words.headline(found)}"), soft_wrap=True)
    grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for title in words.columns(found):
        grid.add_column(title, no_wrap=title != "state", justify="left" if title == "state" else "right")
    for row in words.rows(found, words.ranked(found)[: words.SHOWN]):
        grid.add_row(*map(Text, row))
    console.print(Padding(grid, (1, 0, 1, 2), expand=False))
    for sentence in words.remarks(found):
        console.print(Text(sentence, "dim"), soft_wrap=True)
    console.print()
    if found.best and found.best.figure is not None:
        figure, values = f"{found.best.figure:.5g}", words.said(found.best.values)
        console.print(Text(f"The best is trial {found.best.number}, with {figure}: {values}"), soft_wrap=True)
        console.print("To train it:")
        files = [word for plugin in plugins for word in ("--plugin", str(plugin))]
        write_command(console, typed(["gantricks", "train", str(path / BEST), *files]))
    else:
        console.print(Text("No trial has a figure.", "yellow"))
    console.print(f"The search is kept in {path}: results.md, results.json, results.png.", soft_wrap=True)


class SearchScreen(Screen):
    """Shows a search: on a terminal a bar over all of its trials, and everywhere a line for every trial."""

    units = "trials"

    def finished(self, outcome: Outcome, done: int, total: int) -> None:
        line = f"{outcome.variant} seed {outcome.seed}  {outcome.status}: {outcome.reason}"
        self.console.print(Text(line, "yellow"), soft_wrap=True)

    def tried(self, trial: Trial, done: int, total: int) -> None:
        said = f"{trial.figure:.5g}" if trial.figure is not None else f"{trial.state} {trial.reason}".rstrip()
        line = f"trial {done}/{total}  {trial.name}  {said}  {words.said(trial.values)}{self.eta(done)}"
        self.console.print(Text(line, "" if trial.state == "done" else "yellow"), soft_wrap=True)
