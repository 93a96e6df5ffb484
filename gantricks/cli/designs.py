"""`gantricks ablate` with a design that is analysed by regression, or confirms: its progress and its findings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Grid

from gantricks.cli.console import Text, errors, output, typed, write_command, write_json
from gantricks.cli.study import Screen, write_interrupted, write_table
from gantricks.study import Table, effects_words
from gantricks.study.confirm import confirm
from gantricks.study.effects import Findings
from gantricks.study.factorial import factorial
from gantricks.study.playing import Interrupted
from gantricks.study.screening import screening

DesignMode = Literal["factorial", "screening", "confirm"]


def designed(mode: DesignMode, recipe: str, json: bool, **how: Any) -> int:
    """Make or finish a study and show its findings. Returns the exit status: 1 when runs have failed."""
    studies: dict[str, Callable[..., tuple[Path, Any]]] = {
        "factorial": factorial,
        "screening": screening,
        "confirm": confirm,
    }
    console = errors() if json else output()
    try:
        path, found = studies[mode](recipe, reporter=Screen(console), **how)
    except Interrupted as end:
        return write_interrupted(console, end)
    if json:
        write_json(found.as_dict() | {"folder": str(path)})
    else:
        (write_table if isinstance(found, Table) else write_findings)(console, found)
        console.print()
        console.print(f"The study is kept in {path}: results.md, results.json, results.png.", soft_wrap=True)
    return int(bool(found.failed))


def write_findings(console: Console, found: Findings) -> None:
    """Write the effects of a study, family by family, with remarks."""
    console.print()
    console.print(
        Text.assemble((found.name, "bold"), f" {found.mode}: {effects_words.headline(found)}"), soft_wrap=True
    )
    for family in found.families:
        grid = Grid(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
        titles = effects_words.columns(found, family)
        for title in titles:
            left = title in (titles[0], "one of", "verdict", "note")
            grid.add_column(title, no_wrap=title != "note", justify="left" if left else "right")
        for row in effects_words.rows(found, family):
            grid.add_row(*map(Text, row))
        console.print(Padding(grid, (1, 0, 1, 2), expand=False))
    for sentence in effects_words.remarks(found):
        console.print(Text(sentence, "dim"))
    if found.mode == "screening" and found.finalists:
        console.print()
        console.print("To confirm what looks best, with fresh runs:")
        write_command(
            console,
            typed(
                ["gantricks", *_without(sys.argv[1:]), "--mode", "confirm", "--finalists", ",".join(found.finalists)]
            ),
        )


_OWN = ("--mode", "--runs", "--tricks", "--with", "--dir")
"""The options of a screening's command that are not those of its confirmation."""


def _without(words: Sequence[str]) -> list[str]:
    """Return the words of a command without `_OWN` options, which take a value each."""
    kept, skip = list[str](), False
    for word in words:
        if not skip and word.partition("=")[0] not in _OWN:
            kept.append(word)
        skip = not skip and word in _OWN
    return kept
