"""Paired comparisons: Student's t distribution as finite sums, intervals, and Holm's correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences and how well it is known.

    `n`: number of pairs. `sd`: standard deviation of the differences (n - 1 below the root), None for fewer than two.
    `interval`: of `CONFIDENCE`, by Student's t. `p`: two-sided, of the hypothesis that the mean is 0.

    Differences that are all the same have no spread to judge by: there is no interval, and `p` is that of the sign
    test, 2^(1 - n), or 1 where they are all 0.
    """

    n: int
    mean: float | None
    sd: float | None
    interval: tuple[float, float] | None
    p: float | None


def mean(values: Sequence[float]) -> float:
    """Their sum over their number, rounded once."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample, n - 1 below the root; None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def estimate(differences: Sequence[float], magnitude: float = 0.0, confidence: float = CONFIDENCE) -> Estimate:
    """What `differences`, one per pair, say of their mean.

    `magnitude`: the largest number that they are differences of; what lies within its rounding counts as no spread.
    """
    n, sd = len(differences), deviation(differences)
    if sd is None:
        return Estimate(n, differences[0] if n else None, None, None, None)
    centre = mean(differences)
    rounding = 16 * math.ulp(1.0) * max(magnitude, *map(abs, differences))
    if sd <= rounding:
        return Estimate(n, centre, 0.0, None, 1.0 if abs(centre) <= rounding else 2.0 ** (1 - n))
    error = sd / math.sqrt(n)
    reach = t_quantile(confidence, n - 1) * error
    return Estimate(n, centre, sd, (centre - reach, centre + reach), 1 - t_within(abs(centre) / error, n - 1))


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= t) for Student's T with `freedom` degrees of freedom, t >= 0.

    The sums are exact, with θ = atan(t / √freedom). Source: Abramowitz & Stegun 1964, 26.7.3 (odd) and 26.7.4 (even).
    """
    return _within(math.atan2(t, math.sqrt(freedom)), freedom)


def t_quantile(share: float, freedom: int) -> float:
    """The t at which P(|T| <= t) is `share`, 0 <= share < 1."""
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
    """Each p adjusted for their number, so that among all those below α a false one is as rare as α.

    None, a test that could not be made, counts for nothing. Source: Holm 1979, "A simple sequentially rejective
    multiple test procedure".
    """
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted
