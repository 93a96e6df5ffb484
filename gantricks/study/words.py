"""A study's table as text: the cells of the table, and results.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gantricks.study.statistics import deviation, mean
from gantricks.study.table import OPEN, Comparison, Mean, Table

NOTHING = "–"
COLUMNS = ("variant", "mean", "sd", "n", "with − without", "95 % interval", "p", "Holm p", "verdict")


def headline(table: Table) -> str:
    """Return one line on what was compared."""
    seeds = f"seed {table.seeds[0]}" if len(table.seeds) == 1 else f"seeds {table.seeds[0]} to {table.seeds[-1]}"
    return (
        f"{table.figure} of {table.metric}, {table.better} is better; {seeds}, {table.steps:,} steps a run; "
        f"real samples against real ones: {'not measured' if table.floor is None else f'{table.floor:.4g}'}"
    )


def rows(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of `COLUMNS` for every variant, the reference first."""
    write = writer(table)
    of = {(comparison.plus + comparison.minus): comparison for comparison in table.comparisons}
    reference = table.means[0].variant
    found = []
    for row in table.means:
        comparison = of.get((reference, row.variant)) or of.get((row.variant, reference))
        cells = _compared(comparison, write) if comparison else (NOTHING,) * 5
        found.append((row.variant, write(row.mean), write(row.sd), _count(row), *cells))
    return found


def interactions(table: Table) -> list[tuple[str, ...]]:
    """Return the name, the number of seeds and the cells of the last five `COLUMNS` for every pair of tricks."""
    write = writer(table)
    return [(found.name, str(found.n), *_compared(found, write)) for found in table.interactions]


def remarks(table: Table) -> list[str]:
    """Return remarks below the table: how differences are computed, lost pairs, withheld verdicts, variants that were
    not trained.
    """
    first = (
        "with − without: the figure with the trick less the figure without it, paired by seed; Student's t; "
        f"p adjusted (Holm) for {counted(len(table.comparisons), 'comparison')}"
    )
    if table.interactions:
        first += f", and for {counted(len(table.interactions), 'interaction')} by themselves"
    lost = [f"{found.name}: {found.lost} of {found.lost + found.n} pairs have a run without a figure"
            for found in (*table.comparisons, *table.interactions) if found.lost]  # fmt: skip
    notes = [f"{found.name}: {found.note}" for found in (*table.comparisons, *table.interactions) if found.note]
    impossible = [f"{variant} cannot be trained: {why}" for variant, why in table.impossible.items()]
    failed = [f"{run} failed and is made again by the same command: {why}" for run, why in table.failed.items()]
    return [first, *lost, *notes, *impossible, *failed]


def counted(number: int, what: str) -> str:
    """Return "1 comparison", "2 comparisons" …"""
    return f"{number} {what}{'' if number == 1 else 's'}"


def figures(table: Table) -> list[tuple[str, ...]]:
    """Return every figure of the metric, mean ± standard error over the seeds: a row of names, one row for each
    variant, one for real samples. Empty where the metric has only the compared figure.
    """
    names = list(dict.fromkeys(name for row in table.means for name in row.figures))
    if len(names) < 2:
        return []
    lines = [("variant", *names)]
    lines += [(row.variant, *(_spread([*row.figures.get(name, {}).values()]) for name in names)) for row in table.means]
    if table.floors:
        real = [NOTHING if (floor := table.floors.get(name)) is None else f"{floor:.4g}" for name in names]
        lines.append(("real samples", *real))
    return lines


def as_markdown(table: Table) -> str:
    """Return the text of results.md."""
    parts = [f"# {table.name}: {table.mode}", headline(table) + ".", _grid(COLUMNS, rows(table))]
    if table.interactions:
        parts += ["What two tricks do together beyond what each does without the other:"]
        parts += [_grid(("pair", "n", "interaction", *COLUMNS[5:]), interactions(table))]
    parts += ["\n".join(f"- {sentence}." for sentence in remarks(table))]
    if every := figures(table):
        parts += ["Every figure of the metric, mean ± standard error over the seeds:", _grid(every[0], every[1:])]
    parts += ["![](results.png)"]
    return "\n\n".join(parts) + "\n"


class writer:
    """Formats figures of a table with as many digits as the smallest spread between seeds makes meaningful."""

    def __init__(self, table: Table) -> None:
        spreads = [row.sd for row in table.means if row.sd] or [abs(row.mean) for row in table.means if row.mean]
        self.decimals = min(6, max(0, 1 - math.floor(math.log10(min(spreads))))) if spreads else 1

    def __call__(self, value: float | None, sign: bool = False) -> str:
        if value is None:
            return NOTHING
        written = _decimal(value, self.decimals, "+" if sign else "")
        return "0" if not float(written) and sign else written.replace("-", "−")


def probability(p: float | None) -> str:
    """Format a p with three decimals."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _compared(found: Comparison, write: writer) -> tuple[str, ...]:
    interval = NOTHING
    if found.low is not None and found.high is not None:
        interval = f"{write(found.low, sign=True)} … {write(found.high, sign=True)}"
    verdict = found.verdict if found.verdict == OPEN else f"{found.name} {found.verdict}"
    return write(found.difference, sign=True), interval, probability(found.p), probability(found.holm), verdict


def _spread(values: Sequence[float]) -> str:
    """Format a mean with its standard error, with as many digits as the error makes meaningful."""
    sd = deviation(values)
    if not values or sd is None:
        return NOTHING if not values else f"{values[0]:.4g}"
    error = sd / math.sqrt(len(values))
    decimals = min(6, max(0, 1 - math.floor(math.log10(error)))) if error else 2
    return f"{_decimal(mean(values), decimals)} ± {_decimal(error, decimals)}".replace("-", "−")


def _decimal(value: float, decimals: int, sign: str = "") -> str:
    """Format with this many decimals, or with a power of ten where that would be too long to read."""
    return f"{value:{sign}.3e}" if abs(value) >= 1e12 else f"{value:{sign}.{decimals}f}"


def _count(row: Mean) -> str:
    kinds = ((row.collapsed, "collapsed"), (row.diverged, "diverged"), (row.failed, "failed"))
    missing = [f"{count} {word}" for count, word in kinds if count]
    return f"{row.n} ({', '.join(missing)})" if missing else str(row.n)


def _grid(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 2) + ["---"], *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
