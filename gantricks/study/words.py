"""A study's table as text: the cells of the table, and results.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from gantricks.study.curves import STILL
from gantricks.study.statistics import deviation, mean
from gantricks.study.table import OPEN, Comparison, Mean, Rules, Span, Table

NOTHING = "–"


def columns(table: Table) -> tuple[str, ...]:
    """Return the titles of the columns. Those on time are there where it was measured."""
    logs = table.scale == "log"
    return (
        "variant",
        "geometric mean" if logs else "mean",
        "spread" if logs else "sd",
        "n",
        "change" if logs else "difference",
        "p",
        *_timed(table),
        "verdict",
    )


def _timed(table: Table) -> list[str]:
    kinds = {
        "at equal time": any(found.equal_time for found in table.comparisons),
        "time a step": any(found.price for found in table.comparisons),
    }
    return [title for title, there in kinds.items() if there]


def headline(table: Table) -> str:
    """Return one line on what was compared."""
    seeds = f"seed {table.seeds[0]}" if len(table.seeds) == 1 else f"seeds {table.seeds[0]} to {table.seeds[-1]}"
    return (
        f"{table.figure} of {table.metric}, {table.better} is better; {seeds}, {table.steps:,} steps a run; "
        f"real samples against real ones: {'not measured' if table.floor is None else f'{table.floor:.4g}'}"
    )


def rows(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of `columns` for every variant, the reference first."""
    write = writer(table)
    of = {(comparison.plus + comparison.minus): comparison for comparison in table.comparisons}
    reference, timed = table.means[0].variant, _timed(table)
    found = []
    for row in table.means:
        comparison = of.get((reference, row.variant)) or of.get((row.variant, reference))
        cells = _compared(comparison, write, timed) if comparison else (NOTHING,) * (3 + len(timed))
        spread = percent(math.expm1(row.sd)) if write.logs and row.sd is not None else write(row.sd)
        found.append((row.variant, write(row.mean), spread.lstrip("+"), _count(row), *cells))
    return found


def interaction_columns(table: Table) -> tuple[str, ...]:
    """Return the titles of the columns of the table of pairs."""
    return ("pair", "n", "interaction", "p", "verdict")


def interactions(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of `interaction_columns` for every pair of tricks."""
    write = writer(table)
    return [(found.name, str(found.n), *_compared(found, write, ())) for found in table.interactions]


SIDES = {"sweep": ("of the variant", "of the recipe")}
"""What is compared with what, by the mode of a study; otherwise a trick."""
TRICK = ("with the trick", "without it")


def method(rules: Rules, comparisons: int, interactions: int, mode: str) -> str:
    """Return a sentence on how effects, intervals and p are computed."""
    one, other = SIDES.get(mode, TRICK)
    what = (
        f"change: the geometric mean of the figure {one} over that {other}"
        if rules.logs
        else f"difference: the mean of the figure {one} less that {other}"
    )
    test = "pairs with one seed, Student's t" if rules.paired else "independent runs, Welch's t"
    number = counted(comparisons, "comparison")
    if interactions:
        number += f", and for {counted(interactions, 'interaction')} by themselves"
    if rules.adjust == "holm":
        told = f"p adjusted (Holm) for {number}, each interval at the level of its test"
    else:
        told = f"intervals of 95 % and p hold all at once (max-t) for {number}"
    return f"{what}; {test}; {told}"


def unsettled(reference: str, gain: float) -> str:
    """Return why no effect gets a verdict, where the reference still gets better; nothing where it does not."""
    if gain <= STILL:
        return ""
    return (
        f"{reference} still gets better by {100 * gain:.0f} % in the last quarter of its steps, so no effect gets a "
        "verdict: longer runs may turn it round"
    )


def remarks(table: Table) -> list[str]:
    """Return remarks below the table: how effects are computed, what can be seen, lost runs, withheld verdicts, and
    variants that were not trained.
    """
    every = (*table.comparisons, *table.interactions)
    lost = [
        f"{found.name}: {found.lost} of {found.lost + found.n} pairs have a run without a figure"
        if table.design == "paired"
        else f"{found.name}: {counted(found.lost, 'run')} with or without it lack a figure"
        for found in every
        if found.lost
    ]
    notes = [f"{found.name}: {found.note}" for found in every if found.note]
    impossible = [f"{variant} cannot be trained: {why}" for variant, why in table.impossible.items()]
    failed = [f"{run} failed and is made again by the same command: {why}" for run, why in table.failed.items()]
    first = [table.method] if table.method else []
    return [*first, *_power(table), *_times(table), *table.notes, *lost, *notes, *impossible, *failed]


def _power(table: Table) -> list[str]:
    found = []
    if table.correlation is not None:
        advice = ""
        if table.design == "independent" and table.correlation > CORRELATED:
            advice = ": --design paired would see more"
        written = f"{table.correlation:+.2f}".replace("-", "−")
        found.append(f"runs with one seed correlate by {written}, over {len(table.seeds)} seeds{advice}")
    if table.visible is not None:
        logs = table.scale == "log"
        size = f"change of {percent(table.visible).lstrip('+')}" if logs else f"difference of {table.visible:.2g}"
        found.append(f"a study with these runs and this spread sees a {size}, 4 times in 5")
    return found


CORRELATED = 0.3
"""The correlation of runs with one seed from which a study says that pairs would see more."""


def _times(table: Table) -> list[str]:
    one, other = SIDES.get(table.mode, TRICK)
    titles = {
        "time a step": f"time a step: seconds {one} over seconds {other}, each interval by itself",
        "at equal time": "at equal time: the side with longer steps when it has had as many seconds as the other",
    }
    return [titles[title] for title in _timed(table)]


def counted(number: int, what: str) -> str:
    """Return "1 comparison", "2 comparisons" …"""
    return f"{number} {what}{'' if number == 1 else 's'}"


def figures(table: Table) -> list[tuple[str, ...]]:
    """Return every figure that was measured, mean ± standard error over the seeds: a row of names, one row for each
    variant, one for real samples. Empty where that is only the compared one.
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
    parts = [f"# {table.name}: {table.mode}", headline(table) + ".", _grid(columns(table), rows(table))]
    if table.interactions:
        parts += ["What two tricks do together beyond what each does without the other:"]
        parts += [_grid(interaction_columns(table), interactions(table))]
    parts += ["\n".join(f"- {sentence}." for sentence in remarks(table))]
    if every := figures(table):
        parts += ["Every figure, mean ± standard error over the seeds:", _grid(every[0], every[1:])]
    parts += ["![](results.png)", *(["![](curves.png)"] if table.curves else [])]
    return "\n\n".join(parts) + "\n"


class writer:
    """Formats figures of a table with as many digits as the smallest spread between seeds makes meaningful, and
    effects.
    """

    def __init__(self, table: Table) -> None:
        self.logs = table.scale == "log"
        sds = [row.sd * (row.mean or 0) if self.logs else row.sd for row in table.means if row.sd]
        spreads = [sd for sd in sds if sd] or [abs(row.mean) for row in table.means if row.mean]
        self.decimals = min(6, max(0, 1 - math.floor(math.log10(min(spreads))))) if spreads else 1

    def __call__(self, value: float | None, sign: bool = False) -> str:
        if value is None:
            return NOTHING
        written = _decimal(value, self.decimals, "+" if sign else "")
        return "0" if not float(written) and sign else written.replace("-", "−")

    def effect(self, value: float | None, low: float | None, high: float | None) -> str:
        """Format an effect with its interval: "−34 % [−41, −27]" for a ratio, "+2.0 [+1.5, +2.5]" for a difference."""
        if value is None:
            return NOTHING
        written = percent(value - 1) if self.logs else self(value, sign=True)
        if low is None or high is None:
            return written
        ends = (percent(end - 1).removesuffix(" %") if self.logs else self(end, sign=True) for end in (low, high))
        return f"{written} [{', '.join(ends)}]"

    def span(self, span: Span | None) -> str:
        return NOTHING if span is None else self.effect(span.value, span.low, span.high)


def percent(share: float) -> str:
    """Format a change as text: "−34 %", and "×12" from ten times as much."""
    if share >= 9:
        return f"×{share + 1:.3g}"
    digits = 1 if abs(share) < 0.0995 else 0
    written = f"{100 * share:+.{digits}f}"
    return ("0" if not float(written) else written.replace("-", "−")) + " %"


def probability(p: float | None) -> str:
    """Format a p with three decimals."""
    if p is None:
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def price(span: Span | None) -> str:
    """Format a ratio of times with its interval: "×1.07 [1.05, 1.09]"."""
    if span is None:
        return NOTHING
    interval = f" [{span.low:.2f}, {span.high:.2f}]" if span.low is not None and span.high is not None else ""
    return f"×{span.value:.2f}{interval}"


def _compared(found: Comparison, write: writer, timed: Sequence[str]) -> tuple[str, ...]:
    times = {"at equal time": write.span(found.equal_time), "time a step": price(found.price)}
    verdict = found.verdict if found.verdict == OPEN else f"{found.name} {found.verdict}"
    return (
        write.effect(found.effect, found.low, found.high),
        probability(found.adjusted),
        *(times[title] for title in timed),
        verdict,
    )


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
