"""Findings of a regression as text: the cells of their tables, and results.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gantricks.study.effects import Effect, Family, Findings, percent
from gantricks.study.words import counted, probability

NOTHING = "–"


def headline(found: Findings) -> str:
    """Return one line on what was compared."""
    spread = NOTHING if found.spread is None else percent(found.spread, found.scale).lstrip("+")
    floor = found.floors.get(found.figure)
    return (
        f"{found.figure} of {found.metric}, {found.better} is better; {found.steps:,} steps a run; "
        f"{counted(found.used, 'run')} of {found.runs} in the regression, {found.diverged} diverged, "
        f"{found.collapsed} collapsed; residual spread {spread}, R² {found.explained:.2f}; "
        f"real samples against real ones: {'not measured' if floor is None else f'{floor:.4g}'}"
    )


def columns(found: Findings, family: Family) -> tuple[str, ...]:
    """Return the titles of the columns of one family's table."""
    judged = ("verdict",) if any(effect.verdict for effect in family.effects) else ()
    grouped = ("one of",) if any(effect.group for effect in family.effects) else ()
    what = "effect" if found.scale == "log" else "difference"
    return (
        family.title,
        *grouped,
        what,
        "95 % interval",
        "p",
        "runs",
        "inflation",
        "lost",
        "lost without",
        "time",
        *judged,
        "note",
    )


def rows(found: Findings, family: Family) -> list[tuple[str, ...]]:
    """Return the cells of `columns` for every effect of a family."""
    titles = columns(found, family)
    return [_row(found, effect, "one of" in titles, "verdict" in titles) for effect in family.effects]


def _row(found: Findings, effect: Effect, grouped: bool, judged: bool) -> tuple[str, ...]:
    lost = f"{effect.lost} of {effect.played}" + (f" (p {effect.p_lost:.2g})" if effect.p_lost is not None else "")
    return (
        effect.name,
        *([effect.group] if grouped else []),
        NOTHING if effect.value is None else percent(effect.value, found.scale),
        interval(effect, found),
        probability(effect.p),
        str(effect.runs),
        NOTHING if effect.inflation is None else f"{effect.inflation:.2f}",
        lost,
        f"{effect.lost_without} of {effect.played_without}",
        NOTHING if effect.price is None else f"× {effect.price:.2f}",
        *([effect.verdict] if judged else []),
        effect.note,
    )


def interval(effect: Effect, found: Findings) -> str:
    """Return the interval of an effect as text."""
    if effect.low is None or effect.high is None:
        return NOTHING
    return f"{percent(effect.low, found.scale)} … {percent(effect.high, found.scale)}"


def remarks(found: Findings) -> list[str]:
    """Return remarks below the tables: how effects are estimated, what was left out and why."""
    scale = "the log of the figure" if found.scale == "log" else "the figure itself, which is not always above 0"
    first = (
        f"least squares on {scale}; errors that hold for unequal variances (HC2); the 95 % intervals of a table hold "
        "all at once, and p is adjusted alike; inflation: of the variance, by what else the runs had; lost: runs that "
        "diverged or collapsed, with it and without; p of these by Fisher's exact test, adjusted (Holm); time: seconds "
        "of a run over those without it"
    )
    verb = "is not drawn" if found.mode == "screening" else "cannot be trained"
    impossible = [f"{variant} {verb}: {why}" for variant, why in found.impossible.items()]
    failed = [f"{run} failed and is made again by the same command: {why}" for run, why in found.failed.items()]
    return [first, *found.remarks, *impossible, *failed]


def as_markdown(found: Findings) -> str:
    """Return the text of results.md."""
    parts = [f"# {found.name}: {found.mode}", headline(found) + "."]
    parts += [grid(columns(found, family), rows(found, family)) for family in found.families]
    parts += ["\n".join(f"- {sentence}." for sentence in remarks(found)), "![](results.png)"]
    return "\n\n".join(parts) + "\n"


def grid(columns: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown: names on the left, figures on the right."""
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 2) + ["---"], *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def shown(family: Family) -> Sequence[Effect]:
    """Return the effects of a family that have a value."""
    return [effect for effect in family.effects if effect.value is not None]
