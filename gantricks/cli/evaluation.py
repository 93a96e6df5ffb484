"""`gantricks evaluate`: the figures of a run, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gantricks.cli.console import Text, errors, number, output, write_json
from gantricks.cli.plans import write_warning
from gantricks.cli.progress import Screen
from gantricks.metrics.base import Measurement
from gantricks.runs.evaluation import Evaluated, evaluate


def evaluate_run(
    folder: Path,
    metrics: Sequence[str],
    samples: int | None,
    seed: int,
    step: int | None,
    overrides: Sequence[str],
    device: str,
    plugins: Sequence[Path],
    json: bool,
) -> None:
    """Measure and show. With `json`, standard output has nothing else, and warnings go to standard error."""
    console = errors() if json else output()
    screen = Screen(console)
    try:
        found = evaluate(
            folder,
            metrics,
            samples=samples,
            seed=seed,
            step=step,
            device=device,
            plugins=plugins,
            overrides=overrides,
            # progress is for a user who waits at a terminal, not for a file of figures
            progress=screen.reading if console.is_terminal else lambda what, done, total: None,
            warn=lambda sentence: write_warning(console, sentence),
        )
    finally:
        screen.close()
    if json:
        facts = {"run": str(folder), "step": found[0].step, "seed": seed}
        given = {"set": list(overrides)} if overrides else {}
        write_json(facts | given | {"metrics": [as_dict(e) for e in found]})
        return
    console.print(Text.assemble((str(folder), "bold"), f" after {found[0].step:,} steps, seed {seed}"), soft_wrap=True)
    console.print()
    console.print(_figures(found))
    console.print()
    _write_facts(console, found)


def as_dict(evaluated: Evaluated) -> dict[str, Any]:
    """Return one metric's figures as plain data."""
    floor = evaluated.floor
    return {
        "metric": evaluated.metric,
        "use": evaluated.use,
        "figures": {
            figure: {
                "value": evaluated.measurement.values[figure],
                "better": better,
                "floor": floor.values[figure] if floor else None,
            }
            for figure, better in evaluated.better.items()
        },
        "facts": evaluated.measurement.facts,
        "floor_facts": floor.facts if floor else None,
        "seconds": round(evaluated.seconds, 3),
    }


def _figures(found: Sequence[Evaluated]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("metric", style="bold", no_wrap=True)
    table.add_column("figure", no_wrap=True)
    table.add_column("value", style="cyan", justify="right", no_wrap=True)
    table.add_column("real data", justify="right", no_wrap=True)
    table.add_column("better", style="dim", no_wrap=True)
    for evaluated in found:
        for position, (figure, better) in enumerate(evaluated.better.items()):
            floor = number(evaluated.floor.values[figure]) if evaluated.floor else ""
            name = evaluated.metric if position == 0 else ""
            table.add_row(name, figure, number(evaluated.measurement.values[figure]), floor, better)
    return table


def _write_facts(console: Console, found: Sequence[Evaluated]) -> None:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(style="dim")
    for evaluated in found:
        uses = f"{evaluated.use}; " if evaluated.use != evaluated.metric else ""
        facts.add_row(evaluated.metric, f"{uses}{_facts(evaluated.measurement)}; {evaluated.seconds:.1f} s")
    console.print(facts)


def _facts(measurement: Measurement) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value if isinstance(value, str) else number(value)}"
        for name, value in measurement.facts.items()
    )
