"""What a search has found, as text: the cells of its table, and results.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gantricks.study.parameters import Drawn
from gantricks.study.search import IMPORTANCE, Search
from gantricks.study.trials import LEAST, Trial
from gantricks.study.words import NOTHING, counted

SHOWN = 10
"""The largest number of trials on a terminal. Files have them all."""


def headline(found: Search) -> str:
    """Return one line on what was searched."""
    real = "not measured" if found.floor is None else f"{found.floor:.4g}"
    return (
        f"{found.figure} of {found.metric}, {found.better} is better; {counted(len(found.trials), 'trial')} of "
        f"{counted(len(found.seeds), 'run')}, {found.steps:,} steps a run; real samples against real ones: {real}"
    )


def columns(found: Search) -> tuple[str, ...]:
    """Return the titles of the columns."""
    return ("trial", *(one.key for one in found.space), found.figure, "steps", "seconds", "state")


def ranked(found: Search) -> list[Trial]:
    """Return the trials, those with a figure first and the best of them at the top."""
    sign = -1 if found.better == "higher" else 1
    return sorted(found.trials, key=lambda t: (t.figure is None, sign * (t.figure or 0), t.number))


def rows(found: Search, trials: Iterable[Trial]) -> list[tuple[str, ...]]:
    """Return the cells of `columns` for trials."""
    return [
        (
            str(trial.number),
            *(brief(trial.values[one.key]) if one.key in trial.values else NOTHING for one in found.space),
            NOTHING if trial.figure is None else f"{trial.figure:.5g}",
            f"{trial.steps:,}",
            f"{trial.seconds:.1f}",
            f"{trial.state}: {trial.reason}" if trial.reason else trial.state,
        )
        for trial in trials
    ]


def brief(value: Drawn) -> str:
    """Return a value in few letters."""
    return value if isinstance(value, str) else f"{value:.5g}"


def said(values: dict[str, Drawn]) -> str:
    """Return the values of a trial in one line."""
    return ", ".join(f"{key}={brief(value)}" for key, value in values.items())


def remarks(found: Search) -> list[str]:
    """Return remarks below the table."""
    told = ["the best of many trials is best by luck in part: with fresh seeds its figure will be worse as a rule"]
    if found.importance:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in by_importance(found))
        told.append(f"what matters for being among the best tenth ({IMPORTANCE}): {shares}")
    else:
        told.append(f"importance is told from {LEAST} trials with a figure on")
    if len(found.seeds) > 1:
        told.append(f"the figure of a trial is the {'geometric ' if found.ratio else ''}mean over its runs")
    counts = Counter(trial.state for trial in found.trials)
    told += [f"{counted(number, 'trial')} {state}" for state, number in counts.items() if state != "done"]
    return told + [f"{run} failed and is made again by the same command: {why}" for run, why in found.failed.items()]


def by_importance(found: Search) -> list[tuple[str, float]]:
    """Return the keys with their shares, the largest first."""
    return sorted(found.importance.items(), key=lambda item: -item[1])


def as_markdown(found: Search) -> str:
    """Return the text of results.md."""
    parts = [f"# {found.name}: tune", headline(found) + "."]
    if found.best and found.best.figure is not None:
        parts.append(f"The best is trial {found.best.number}, with {found.best.figure:.5g}:")
        parts.append("\n".join(f"- `{key}={value}`" for key, value in found.best.values.items()))
    else:
        parts.append("No trial has a figure.")
    parts.append(_grid(columns(found), rows(found, ranked(found))))
    parts.append("\n".join(f"- {sentence}." for sentence in remarks(found)))
    return "\n\n".join([*parts, "![](results.png)"]) + "\n"


def _grid(titles: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---:"] * (len(titles) - 1) + ["---"], *cells]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
