"""Statistics of comparisons: Student's t for pairs, exact tests of ranks and of shares, and Holm's correction."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences and its precision.

    `n`: number of pairs. `sd`: standard deviation of the differences (n - 1 below the root), None for fewer than two.
    `interval`: of `CONFIDENCE`, by Student's t. `p`: two-sided, of the hypothesis that the mean is 0. Where all
    differences are equal, or all but one, their spread cannot be estimated: then there is no interval and no p, and
    `spread` is false.
    """

    n: int
    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None
    spread: bool = True


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


def estimate(differences: Sequence[float], magnitude: float = 0.0, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the mean of `differences`, one per pair.

    `magnitude` is the largest number in the pairs. A spread within its rounding error counts as none.
    """
    n, sd = len(differences), deviation(differences)
    if sd is None:
        return Estimate(n, differences[0] if n else None, None, None, None)
    centre = mean(differences)
    rounding = 16 * math.ulp(1.0) * max(magnitude, *map(abs, differences))
    alike = _same(differences, rounding)
    if alike == n or alike == n - 1 > 1:
        return Estimate(n, centre, sd if sd > rounding else 0.0, None, None, spread=False)
    error = sd / math.sqrt(n)
    reach = min(t_quantile(confidence, n - 1) * error, sys.float_info.max)
    low, high = (total([centre, side]) for side in (-reach, reach))
    return Estimate(n, centre, sd, (low, high), 1 - t_within(abs(centre) / error, n - 1))


def _same(values: Sequence[float], rounding: float) -> int:
    """Return the size of the largest group of values that are equal up to `rounding`."""
    ordered = sorted(values)
    first, most = 0, 0
    for last, value in enumerate(ordered):
        while value - ordered[first] > rounding:
            first += 1
        most = max(most, last - first + 1)
    return most


def _scale(values: Sequence[float]) -> int:
    """Return the power of two that scales the values to at most 1, so that squares and sums stay finite."""
    return math.frexp(max(map(abs, values), default=0.0))[1]


def _enlarged(value: float, by: int) -> float:
    try:
        return math.ldexp(value, by)
    except OverflowError:
        return math.copysign(sys.float_info.max, value)


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


def t_within(t: float, freedom: int) -> float:
    """Return P(|T| <= t) for Student's T with `freedom` degrees of freedom, t >= 0.

    The sums are exact, with θ = atan(t / √freedom). Source: Abramowitz & Stegun 1964, 26.7.3 (odd) and 26.7.4 (even).
    """
    return _within(math.atan2(t, math.sqrt(freedom)), freedom)


def t_quantile(share: float, freedom: int) -> float:
    """Return the t at which P(|T| <= t) is `share`, 0 <= share < 1."""
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    terms = [term] if freedom > 1 else []
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine**2
        terms.append(term)
    series = sine * math.fsum(terms)
    return min(1.0, 2 / math.pi * (angle + series) if odd else series)


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
