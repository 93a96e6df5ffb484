"""Statistics of comparisons with one control: Welch's and Student's t, their joint distribution by resampling, Holm's
correction, exact tests of ranks and of rates.

A study asks several questions with the same runs of one control. The chance that any of its answers is false is held at
5 % by simultaneous intervals (Dunnett 1955, "A multiple comparison procedure for comparing several treatments with a
control"), with unequal variances (Welch 1938; Satterthwaite 1946; Hasler & Hothorn 2008, "Multiple contrast tests in
the presence of heteroscedasticity"). The joint distribution of the statistics is that of studies without an effect,
made of the study's own residuals (Westfall & Young 1993, Resampling-Based Multiple Testing).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np

from gantricks.errors import Problem, UserError

Array = np.ndarray
Adjust = Literal["max-t", "holm", "none"]
"""How the intervals and p of a family allow for their number: `max-t`, together 95 %; `holm`, step by step; `none`,
each by itself.
"""

LEVEL = 0.05
"""The chance of a false verdict in a family, at most; intervals hold together in the other 95 %."""
DRAWS = 20_000
"""The number of studies without an effect that are made for one family of contrasts. Near the level, p has a standard
error of 0.0015.
"""
_CELLS = 2_000_000
"""The number of figures that are drawn at a time, for the sake of memory."""
_TINY = 1e-12
"""The least variance of made figures, as a share of what it is on average."""


@dataclass(frozen=True)
class Estimate:
    """A contrast of means and its precision.

    `n`: the number of blocks, or of runs of the variant that has the fewest. `difference`: the contrast, None without
    any figure. `error`: its standard error, of `freedom` degrees of freedom; None where it cannot be estimated. `p`:
    two-sided, of the hypothesis that the contrast is 0, by itself. `adjusted`: p for the family. `interval`: it holds 0
    exactly where `adjusted` is at least `LEVEL`. Where the figures do not spread, there is no interval,
    `spread` is false, and p is that of ranks.
    """

    n: int
    difference: float | None = None
    error: float | None = None
    freedom: float | None = None
    p: float | None = None
    adjusted: float | None = None
    interval: tuple[float, float] | None = None
    spread: bool = True


@dataclass(frozen=True)
class Family:
    """Contrasts that are judged together.

    `values`: (V, S), the figure of each variant in each block (its seed), NaN where there is none. `contrasts`: (K, V),
    the weight of each variant, 1, -1 or 0. `paired`: whether figures of one block are compared with each other;
    otherwise all figures count as independent.
    """

    values: Array
    contrasts: Array
    paired: bool

    def present(self) -> Array:
        """Return (K, S), whether a block has the figures of all variants of a contrast."""
        missing = np.isnan(self.values).astype(float)
        found: Array = np.abs(self.contrasts) @ missing == 0
        return found


def require_scipy() -> None:
    """Raise UserError where scipy is missing. A study calls it before its first run."""
    try:
        import scipy.optimize
        import scipy.special  # noqa: F401
    except ImportError as error:
        raise UserError(
            Problem("the statistics of a study need scipy", "gantricks ablate", 'pip install "gantricks[study]"')
        ) from error


# ---------------------------------------------------------------- sums, means


def total(values: Sequence[float]) -> float:
    """Return the sum, rounded once; the largest finite number where the sum would be larger."""
    by = _scale(values)
    return _enlarged(math.fsum(math.ldexp(value, -by) for value in values), by)


def mean(values: Sequence[float]) -> float:
    """Return the mean, rounded once."""
    by = _scale(values)
    return _enlarged(math.fsum(math.ldexp(value, -by) for value in values) / len(values), by)


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample, n - 1 below the root; None for fewer than two values."""
    if len(values) < 2:
        return None
    by = _scale(values)
    small = [math.ldexp(value, -by) for value in values]
    centre = math.fsum(small) / len(small)
    squares, by_squares = [value - centre for value in small], 0
    by_squares = _scale(squares)  # otherwise squares of very small differences would be 0
    squares = [math.ldexp(value, -by_squares) ** 2 for value in squares]
    return _enlarged(math.sqrt(math.fsum(squares) / (len(small) - 1)), by + by_squares)


def _scale(values: Sequence[float]) -> int:
    """Return the power of two that scales the values to at most 1, so that squares and sums stay finite."""
    return math.frexp(max(map(abs, values), default=0.0))[1]


def _enlarged(value: float, by: int) -> float:
    try:
        return math.ldexp(value, by)
    except OverflowError:
        return math.copysign(sys.float_info.max, value)


# ---------------------------------------------------------------- families of contrasts


def estimate(family: Family, adjust: Adjust = "max-t", draws: int = DRAWS, seed: int = 0) -> list[Estimate]:
    """Estimate every contrast of a family.

    Paired, a contrast is the mean of its differences over blocks, by Student's t. Otherwise it is one of independent
    means, by Welch's t with Satterthwaite's freedom.

    `draws` studies without an effect are made from `seed`, of standardised residuals of this one, with its numbers of
    runs and its spreads (Westfall & Young 1993). So skewness is allowed for, the tails of Welch's t in small samples,
    and what the contrasts share. Each |t| is turned into the normal deviate of about an equal tail, so that contrasts
    of different freedom have equal shares in the error.

    `max-t`: `adjusted` is the share of these studies whose largest deviate is as large as this one, and no less than p.
    The intervals hold together in 95 % of studies.

    `holm`: of the shares of studies in which the same contrast is as far from 0, the smallest is tested at 5 % divided
    by the number of contrasts, and so on (Holm 1979). Each interval is of the level at which its test was made, so that
    it agrees with its p; together, such intervals hold less often.

    `none`: each p and interval is by itself, by Student's t.
    """
    largest = float(np.nanmax(np.abs(family.values), initial=0.0))
    by = 0 if 1e-100 < largest < 1e100 else _scale([largest])
    scaled = Family(np.ldexp(family.values, -by), family.contrasts, family.paired)
    found = [_single(scaled, row) for row in range(len(scaled.contrasts))]
    limits, adjusted = _judged(scaled, found, adjust, draws, seed)
    return [_bounded(*each, by) for each in zip(found, limits, adjusted, strict=True)]


def _single(family: Family, row: int) -> Estimate:
    """Return the estimate of one contrast by itself, without its interval."""
    weights = family.contrasts[row]
    arms = [family.values[arm] for arm in np.flatnonzero(weights)]
    signs = [float(weight) for weight in weights[weights != 0]]
    rounding = 16 * math.ulp(1.0) * float(np.nanmax(np.abs(arms), initial=0.0))
    blocks = [*zip(*(arm[family.present()[row]].tolist() for arm in arms), strict=True)]
    if family.paired:
        differences = [total([s * value for s, value in zip(signs, block, strict=True)]) for block in blocks]
        samples, difference = [differences], mean(differences) if blocks else None
    else:
        samples = [arm[~np.isnan(arm)].tolist() for arm in arms]
        difference = total([s * mean(x) for s, x in zip(signs, samples, strict=True)]) if all(samples) else None
    n = min(map(len, samples))
    if difference is None or n < 2:
        return Estimate(n, difference)
    if all(_steady(sample, rounding) for sample in samples):
        # such figures say nothing of their spread, and a test of ranks needs none
        sides = samples if len(samples) == 2 else [_side(blocks, signs, sign) for sign in (1, -1)]
        p = rank_sum(sides[0], sides[1], rounding) if all(sides) else None
        return Estimate(n, difference, p=p, spread=False)
    spreads = [deviation(sample) or 0.0 for sample in samples]
    squares = [(spread / max(spreads)) ** 2 / len(x) for spread, x in zip(spreads, samples, strict=True)]
    freedom = sum(squares) ** 2 / sum(v**2 / (len(x) - 1) for v, x in zip(squares, samples, strict=True))
    error = max(spreads) * math.sqrt(sum(squares))
    return Estimate(n, difference, error, freedom, outside(abs(difference) / error, freedom))


def _side(blocks: Sequence[Sequence[float]], signs: Sequence[float], sign: int) -> list[float]:
    """Return the sum over the variants of one side, for each block."""
    return [total([v for v, s in zip(block, signs, strict=True) if s == sign]) for block in blocks]


def _steady(values: Sequence[float], rounding: float) -> bool:
    """Return whether all values are equal up to `rounding`, or all but one of several."""
    ordered = sorted(values)
    first, most = 0, 0
    for last, value in enumerate(ordered):
        while value - ordered[first] > rounding:
            first += 1
        most = max(most, last - first + 1)
    return most == len(values) or most == len(values) - 1 > 1


def _bounded(found: Estimate, limit: float, adjusted: float | None, by: int) -> Estimate:
    """Return an estimate with its interval, `limit` standard errors to either side, and scaled by 2 ** `by`."""
    if found.difference is None:
        return found
    interval, error = None, found.error
    if error is not None:
        reach = min(limit * error, sys.float_info.max)
        low, high = (_enlarged(total([found.difference, side]), by) for side in (-reach, reach))
        interval, error = (low, high), _enlarged(error, by)
    return replace(found, difference=_enlarged(found.difference, by), error=error, adjusted=adjusted, interval=interval)


def _judged(
    family: Family, found: Sequence[Estimate], adjust: Adjust, draws: int, seed: int
) -> tuple[list[float], list[float | None]]:
    """Return the number of standard errors at which each interval ends, and each adjusted p."""
    ps = [each.p for each in found]
    if adjust == "none":
        return [t_limit(LEVEL, each.freedom) if each.freedom else math.inf for each in found], ps
    tested = [row for row, each in enumerate(found) if each.error is not None]
    ranks = sum(each.p is not None and each.error is None for each in found)
    made = _deviates(_Made(family, tested, seed) if tested else None, draws, ranks if adjust == "max-t" else 0)
    if adjust == "max-t":
        alone = [np.sort(made.max(axis=1, initial=0.0))] * len(found)
    else:
        columns = iter(np.sort(made, axis=0).T)
        alone = [next(columns) if each.error is not None else np.empty(0) for each in found]
    shares = [_share(each, largest) for each, largest in zip(found, alone, strict=True)]
    levels = [LEVEL] * len(found) if adjust == "max-t" else holm_levels(shares)
    limits = [
        max(_undeviate(_exceeded(largest, level), each.freedom), t_limit(level, each.freedom))
        if each.freedom
        else math.inf
        for each, largest, level in zip(found, alone, levels, strict=True)
    ]
    return limits, shares if adjust == "max-t" else holm(shares)


def _share(found: Estimate, largest: Array) -> float | None:
    """Return the share of made studies, and of this one with them, that reach what `found` has reached, at least p."""
    if found.p is None or not len(largest):
        return found.p
    if found.error is None or found.freedom is None:
        reached = -NormalDist().inv_cdf(found.p / 2)
    else:
        reached = float(_deviate(abs(found.difference or 0.0) / found.error, found.freedom))
    count = len(largest) - int(np.searchsorted(largest, reached))
    return max(found.p, (1 + count) / (len(largest) + 1))


def _exceeded(largest: Array, level: float) -> float:
    """Return the deviate above which, and nowhere else, `_share` is under the level."""
    place = math.ceil(level * (len(largest) + 1) - 1)
    return float(largest[-place]) if place > 0 else math.inf


def normal_limit(runs: Sequence[int], paired: bool, freedom: float, draws: int) -> float:
    """Return the limit of |t| of a family of comparisons with the first variant, whose figures are normal with equal
    spreads, from `draws` made studies. `runs` is the number of each variant's runs, `freedom` that of each comparison.
    """
    values = np.full((len(runs), max(runs)), np.nan)
    for row, count in zip(values, runs, strict=True):
        row[:count] = 0
    contrasts = np.column_stack([-np.ones(len(runs) - 1), np.eye(len(runs) - 1)])
    made = _Made(Family(values, contrasts, paired), range(len(contrasts)), seed=0)
    made.spreads = np.ones(len(runs))
    largest = np.sort(_deviates(made, draws).max(axis=1))
    return max(_undeviate(_exceeded(largest, LEVEL), freedom), t_limit(LEVEL, freedom))


def _deviates(made: _Made | None, draws: int, ranks: int = 0) -> Array:
    """Return the deviate of each contrast in each of `draws` studies without an effect, (draws, K + ranks).

    `ranks` tests of ranks count as independent normal deviates.
    """
    normal = np.abs(np.random.default_rng([55, 93]).standard_normal((draws, ranks)))  # a stream of its own
    if made is None:
        return normal
    found = list[Array]()
    size = max(1, _CELLS // made.cells)
    for first in range(0, draws, size):
        difference, square, freedom = made.draw(min(size, draws - first))
        found.append(_deviate(np.abs(difference) / np.sqrt(square), freedom))
    return np.concatenate([np.concatenate(found), normal], axis=1)


class _Made:
    """Studies like one, with those of its contrasts that are `tested`, but without an effect: its residuals, drawn
    anew. `spreads`: (V,), the standard deviation of each variant's figures, beside what a block shares.
    """

    def __init__(self, family: Family, tested: Sequence[int], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.contrasts, self.present = family.contrasts[[*tested]], family.present()[[*tested]]
        used = np.abs(self.contrasts).sum(0) > 0
        values = family.values[used]
        played = ~np.isnan(values).all(0)
        self.contrasts, self.present, values = self.contrasts[:, used], self.present[:, played], values[:, played]
        self.sizes = (~np.isnan(values)).sum(1)
        self.pool = _pool(values, family.paired)
        self.blocks = values.shape[1]
        self.cells = values.size
        spreads = np.sqrt(_grubbs(values)) if family.paired else np.nanstd(values, axis=1, ddof=1)
        self.spreads = spreads / (spreads.max() or 1)  # t does not depend on the unit
        self.draw = self._paired if family.paired else self._independent

    def _independent(self, count: int) -> tuple[Array, Array, Array]:
        """Return differences, squared errors and freedoms of `count` studies, (count, K), by Welch's formulas."""
        errors = self._errors(count, int(self.sizes.sum()))
        starts = np.cumsum(self.sizes) - self.sizes
        means = np.add.reduceat(errors, starts, axis=1) / self.sizes
        squares = np.add.reduceat(errors**2, starts, axis=1) / self.sizes - means**2
        squares = np.maximum(squares, _TINY) / (self.sizes - 1) * self.spreads**2
        weights = np.abs(self.contrasts).T
        square = squares @ weights
        freedom = square**2 / ((squares**2 / (self.sizes - 1)) @ weights)
        return (means * self.spreads) @ self.contrasts.T, square, freedom

    def _paired(self, count: int) -> tuple[Array, Array, Array]:
        """Return differences, squared errors and freedoms of `count` studies, (count, K), by Student's formulas."""
        errors = self._errors(count, len(self.spreads) * self.blocks).reshape(count, -1, self.blocks)
        apart = np.where(self.present, self.contrasts @ (errors * self.spreads[:, None]), 0)
        n = self.present.sum(1)
        means = apart.sum(2) / n
        squares = ((apart**2).sum(2) / n - means**2) / (n - 1)
        return means, np.maximum(squares, _TINY * squares.mean(axis=0)), np.broadcast_to(n - 1, means.shape)

    def _errors(self, count: int, size: int) -> Array:
        """Return (count, size) draws of the pool, smoothed by normal ones, of variance 1 (Silverman & Young 1987)."""
        normal = self.rng.standard_normal((count, size), np.float32)
        if not len(self.pool):
            return normal
        width = 1.06 * len(self.pool) ** -0.2
        drawn = self.pool[self.rng.integers(0, len(self.pool), (count, size), np.int32)]
        found: Array = (drawn + np.float32(width) * normal) / np.float32(math.sqrt(1 + width**2))
        return found


def _pool(values: Array, paired: bool) -> Array:
    """Return the residuals of all variants, each divided by the spread of its variant, as one sample of variance 1."""
    residuals = values - np.nanmean(values, axis=1, keepdims=True)
    if paired:
        residuals = residuals - np.nanmean(residuals, axis=0)
        residuals = residuals - np.nanmean(residuals, axis=1, keepdims=True)
    spreads = np.nanstd(residuals, axis=1, ddof=1)
    moving = spreads > 16 * math.ulp(1.0) * np.nanmax(np.abs(values), initial=0.0)
    pool = (residuals[moving] / spreads[moving, None]).ravel()
    pool = pool[~np.isnan(pool)]
    found: Array = ((pool - pool.mean()) / pool.std()).astype(np.float32) if len(pool) else pool
    return found


def _grubbs(values: Array) -> Array:
    """Return the variance of each variant beside what all variants of a block share, (V,), of (V, S) figures.

    Those that fit the variances of all differences of two variants best; for two variants a half each. Where the fit is
    negative or nearly 0, a hundredth of the least variance of a difference stands in its place. Source: Grubbs 1948,
    "On estimating precision of measuring instruments and product variability".
    """
    count = len(values)
    apart = np.array([_variances(values - row) for row in values])
    each: Array = apart.sum(1)
    if count < 3:
        return each / 2
    least: Array = np.where(apart > 0, apart, np.inf).min(1)
    fitted = (each - apart.sum() / 2 / (count - 1)) / (count - 2)
    found: Array = np.maximum(fitted, np.where(np.isinf(least), 0, least / 100))
    return found


def _variances(differences: Array) -> Array:
    """Return the variance of each row, of those numbers that are not NaN; 0 for fewer than two."""
    known = ~np.isnan(differences)
    count = known.sum(1)
    filled = np.where(known, differences, 0)
    apart = np.where(known, filled - filled.sum(1, keepdims=True) / np.maximum(count, 1)[:, None], 0)
    found: Array = (apart**2).sum(1) / np.maximum(count - 1, 1)
    return found


def _deviate(t: Array | float, freedom: Array | float) -> Array:
    """Return about the normal deviate whose tail is that of `t`. Source: Wallace 1959, "Bounds on normal approximations
    to Student's and the chi-square distributions".
    """
    found: Array = (8 * freedom + 1) / (8 * freedom + 3) * np.sqrt(freedom * np.log1p(np.square(t) / freedom))
    return found


def _undeviate(deviate: float, freedom: float) -> float:
    """Return the t whose `_deviate` this is."""
    power = (deviate * (8 * freedom + 3) / (8 * freedom + 1)) ** 2 / freedom
    return math.sqrt(freedom * math.expm1(power)) if power < 700 else sys.float_info.max


def t_limit(level: float, freedom: float) -> float:
    """Return the t that |T| exceeds with the probability `level`, for Student's T."""
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, level / 2))


def outside(t: float, freedom: float) -> float:
    """Return P(|T| > t) for Student's T."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -t))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return each p adjusted for the number of tests, so that the chance of any false one below α is at most α.

    None stands for a test that could not be made, and does not count. Source: Holm 1979, "A simple sequentially
    rejective multiple test procedure".
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted


def holm_levels(ps: Sequence[float | None]) -> list[float]:
    """Return the level at which Holm's procedure tests each p: those after the first that stays above its level are
    tested at that one's.
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    levels = [LEVEL] * len(ps)
    left = len(order)
    for p, index in order:
        levels[index] = LEVEL / left
        if p < LEVEL / left:
            left -= 1
    return levels


# ---------------------------------------------------------------- exact tests


def rank_sum(a: Sequence[float], b: Sequence[float], rounding: float = 0.0) -> float:
    """Return the two-sided p of Wilcoxon's rank-sum test that `a` and `b` have one distribution. It is exact, also with
    ties.

    It is the share, among all choices of len(a) of the values, of those whose sum of ranks is at least as far from its
    expectation. Equal values, and those within `rounding`, share the mean of their ranks. Source: Wilcoxon 1945,
    "Individual comparisons by ranking methods"; Lehmann 1975, Nonparametrics, §1.4 (ties).
    """
    ordered = sorted([*((value, True) for value in a), *((value, False) for value in b)])
    ranks: list[int] = []  # doubled, so that they are integers
    start = 0
    for place, (value, _) in enumerate(ordered):
        if place + 1 == len(ordered) or ordered[place + 1][0] - value > rounding:
            ranks += [start + place + 2] * (place + 1 - start)
            start = place + 1
    observed = sum(rank for rank, (_, of_a) in zip(ranks, ordered, strict=True) if of_a)
    # ways[k, s]: how many choices of k values have the sum of ranks s
    ways = np.zeros((len(a) + 1, sum(sorted(ranks)[-len(a) :]) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank].copy()
    distances = np.abs(np.arange(ways.shape[1]) - len(a) * (len(ordered) + 1))
    share = ways[-1][distances >= abs(observed - len(a) * (len(ordered) + 1))].sum() / ways[-1].sum()
    return float(share)


def fisher(hits_a: int, runs_a: int, hits_b: int, runs_b: int) -> float:
    """Return the two-sided p of Fisher's exact test that both groups have the same rate of hits.

    It is the probability, given the total number of hits, of all divisions that are no more likely than this one.
    Source: Fisher 1935, "The logic of inductive inference".
    """
    hits = hits_a + hits_b
    ways = [math.comb(runs_a, k) * math.comb(runs_b, hits - k) for k in range(hits + 1)]
    return sum(count for count in ways if count <= ways[hits_a]) / math.comb(runs_a + runs_b, hits)


def least_fisher(hits: int, runs_a: int, runs_b: int) -> float:
    """Return the p of the most unequal division of this many hits. If it is above a level, the test can never reach
    that level.
    """
    divisions = {min(hits, runs_a), hits - min(hits, runs_b)}
    return min(fisher(k, runs_a, hits - k, runs_b) for k in divisions)
