"""What a study can find: the smallest effect that its runs will probably show, given how far runs differ by chance."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from gantricks.study.spread import Spread
from gantricks.study.statistics import LEVEL, Adjust, normal_limit, t_limit
from gantricks.study.table import Rules

POWER = 0.8
"""The chance that an effect of the size that a study is said to see gets a verdict."""
GOAL = 0.1
"""The change for which a study says how many runs it takes."""
MOST_RUNS = 1000
"""The largest number of runs of each variant that is considered."""
_PARTS, _DRAWS = 2000, 4000
_ENOUGH = 60
"""Beyond this number of runs the limit, as a normal deviate, no longer depends on it."""


def control_runs(runs: int, variants: int, paired: bool) -> int:
    """Return how often the control of `variants` others is played, each of which is played `runs` times.

    Paired it is as often. Otherwise √`variants` times as often, which makes all differences from it together most
    precise for a given number of runs (Dunnett 1955).
    """
    return runs if paired else max(runs, round(math.sqrt(variants) * runs))


@cache
def visible(runs: int, variants: int, paired: bool, adjust: Adjust, correlation: float = 0.0) -> float:
    """Return the effect that a study of `variants` tricks finds with the chance `POWER`, in units of the spread between
    runs.

    Two-sided t of normal figures with equal spreads: the effect at which the noncentral t is beyond the limit of the
    family with that chance (Cohen 1988, Statistical Power Analysis, chapter 2; Johnson, Kotz & Balakrishnan 1995,
    Continuous Univariate Distributions, chapter 31). `correlation` is that of paired runs. Holm's limit is that of the
    first step.
    """
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr

    control = control_runs(runs, variants, paired)
    if paired:
        error, freedom = math.sqrt(2 * (1 - min(correlation, 0.999)) / runs), float(runs - 1)
    else:
        squares = (1 / runs, 1 / control)
        error = math.sqrt(sum(squares))
        freedom = sum(squares) ** 2 / (squares[0] ** 2 / (runs - 1) + squares[1] ** 2 / (control - 1))
    if adjust == "holm":
        limit = t_limit(LEVEL / variants, freedom)
    else:
        played = min(runs, _ENOUGH)
        every = (control_runs(played, variants, paired), *[played] * variants)
        limit = normal_limit(every, paired, freedom, _DRAWS)

    # the noncentral t, as a mean over equal parts of the estimated spread
    spreads = np.sqrt(2 * gammaincinv(freedom / 2, (np.arange(_PARTS) + 0.5) / _PARTS) / freedom)

    def lacking(shift: float) -> float:
        return float(np.mean(ndtr(shift - limit * spreads) + ndtr(-shift - limit * spreads))) - POWER

    high = limit + 1
    while lacking(high) < 0:
        high *= 1.5
    return float(brentq(lacking, 0, high, xtol=1e-4)) * error


def runs_for(effect: float, runs: int, variants: int, paired: bool, adjust: Adjust, correlation: float = 0.0) -> int:
    """Return about how many runs of each variant make an effect visible, in units of the spread. `runs` is a first
    guess. Visible effects are nearly as 1 / √runs, so that three steps suffice.
    """
    for _ in range(3):
        seen = visible(runs, variants, paired, adjust, correlation)
        runs = max(3, min(MOST_RUNS, math.ceil(runs * (seen / effect) ** 2)))
    return runs


def visible_effect(runs: int, variants: int, rules: Rules, spread: float, correlation: float | None = None) -> float:
    """Return the effect that a study sees, where runs spread by `spread` on the scale on which they are compared: a
    share of ratios ("0.1" is a factor of 1.1), or a difference.
    """
    alike = round(max(correlation or 0.0, 0.0), 2)
    seen = spread * visible(runs, variants, rules.paired, rules.adjust, alike if rules.paired else 0.0)
    return math.expm1(min(seen, 700.0)) if rules.logs else seen


def foresight(runs: int, variants: int, rules: Rules, expected: Spread | None) -> str:
    """Return a sentence on what a study will see, before its first run. Paired runs count as uncorrelated there, which
    it says.
    """
    alike = ", and smaller ones the more runs with one seed correlate" if rules.paired else ""
    return f"with {runs} runs of each variant {_foresight(runs, variants, rules, expected)}{alike}"


def _foresight(runs: int, variants: int, rules: Rules, expected: Spread | None) -> str:
    if expected is None:
        if not rules.logs:
            seen = visible_effect(runs, variants, rules, 1.0)
            return f"it will see a difference of {seen:.2g} times the spread between runs, 4 times in 5; --spread helps"
        seen, more = (visible_effect(runs, variants, rules, math.log1p(share)) for share in (0.1, 0.3))
        return (
            f"it will see a change of {_percent(seen)}, 4 times in 5, if runs spread by 10 %, and of {_percent(more)} "
            "if they spread by 30 %; --spread says what to expect"
        )
    spread, source = expected.value, expected.source
    seen = visible_effect(runs, variants, rules, spread)
    if not rules.logs:
        return f"it will see a difference of {seen:.2g}, 4 times in 5, if runs spread by {spread:.2g} ({source})"
    enough = runs_for(math.log1p(GOAL) / spread, runs, variants, rules.paired, rules.adjust)
    needed = f"; {_percent(GOAL)} takes about {enough} runs of each" if seen > GOAL and enough < MOST_RUNS else ""
    return (
        f"it will see a change of {_percent(seen)}, 4 times in 5, if runs spread by {_percent(math.expm1(spread))} "
        f"({source}){needed}"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 10 else f"a factor of {1 + share:.3g}"
