"""Student's t, rank sums and shares against other ways to compute them, intervals that cover, Holm's correction."""

from __future__ import annotations

import itertools
import math
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gantricks.study.statistics import (
    deviation,
    estimate,
    fisher,
    holm,
    least_fisher,
    mean,
    rank_sum,
    t_quantile,
    t_within,
    total,
)

TWO_SIDED_95 = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 30: 2.0423, 120: 1.9799}
"""Abramowitz & Stegun 1964, table 26.10, A = 0.95, with a digit more."""


@pytest.mark.parametrize(("freedom", "t"), TWO_SIDED_95.items())
def test_quantiles_are_the_tabulated_ones(freedom: int, t: float) -> None:
    assert t_quantile(0.95, freedom) == pytest.approx(t, abs=6e-5)


@given(st.floats(0, 50), st.integers(1, 400))
def test_the_sums_are_the_incomplete_beta_function(t: float, freedom: int) -> None:
    with mpmath.workdps(30):
        outside = mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + mpmath.mpf(t) ** 2), regularized=True)
    assert t_within(t, freedom) == pytest.approx(float(1 - outside), abs=1e-12)


@given(st.floats(0, 60), st.integers(1, 200))
def test_agreement_with_scipy(t: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    # scipy's tail has lost digits near t = 0: 3e-9 at t = 1e-8 and one degree of freedom
    assert t_within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-8)
    if 0.01 < t < 5:
        assert t_quantile(t_within(t, freedom), freedom) == pytest.approx(t, rel=1e-6)


@given(st.floats(0.001, 0.9999), st.integers(1, 300))
def test_the_quantile_inverts_the_distribution(share: float, freedom: int) -> None:
    assert t_within(t_quantile(share, freedom), freedom) == pytest.approx(share, abs=1e-12)


@given(st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=30))
def test_the_estimate_is_the_paired_t_test(differences: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = estimate(differences)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-9)
    assert found.spread == (len(differences) - max(map(differences.count, differences)) > (len(differences) > 2))
    if found.spread:
        expected = stats.ttest_1samp(differences, 0)
        interval = expected.confidence_interval(0.95)
        assert found.sd == pytest.approx(np.std(differences, ddof=1))
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.interval == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(0.1, 10), st.floats(-50, 50))
def test_the_estimate_moves_with_scale_and_sign(differences: list[float], scale: float, shift: float) -> None:
    found, turned = estimate(differences), estimate([-scale * value for value in differences])
    if found.interval and turned.interval and found.sd and found.sd > 1e-6:
        assert turned.mean == pytest.approx(-scale * (found.mean or 0), abs=1e-9)
        assert turned.p == pytest.approx(found.p, abs=1e-6)
        low, high = turned.interval
        assert found.interval == pytest.approx((-high / scale, -low / scale), rel=1e-6, abs=1e-9)


def test_the_interval_covers_as_often_as_it_says_and_the_test_errs_as_rarely() -> None:
    draw, trials = np.random.default_rng(0), 4000
    for n in (2, 3, 5, 10):
        found = [estimate([*row]) for row in draw.normal(3.0, 2.0, (trials, n))]
        covering = sum(e.interval is not None and e.interval[0] <= 3 <= e.interval[1] for e in found) / trials
        assert covering == pytest.approx(0.95, abs=4.5 * math.sqrt(0.95 * 0.05 / trials)), n
        false = sum((estimate([*row]).p or 0) < 0.05 for row in draw.normal(0.0, 2.0, (trials, n))) / trials
        assert false == pytest.approx(0.05, abs=4.5 * math.sqrt(0.95 * 0.05 / trials)), n


@pytest.mark.parametrize("n", [2, 5, 9])
def test_differences_that_are_the_same_but_for_one_have_no_spread_to_judge_by(n: int) -> None:
    found = estimate([0.5] * n)
    assert (found.mean, found.sd, found.interval, found.p, found.spread) == (0.5, 0, None, None, False)
    found = estimate([7.0] * n + [6.0])
    assert (found.interval, found.p, found.spread) == (None, None, False)
    assert found.sd == pytest.approx(np.std([7.0] * n + [6.0], ddof=1))
    assert estimate([7.0] * n + [6.0, 6.5]).spread


def test_two_pairs_that_differ_are_judged_by_their_spread() -> None:
    assert estimate([1.0, 2.0]).p == pytest.approx(0.2048, abs=1e-4)


def test_rounding_is_no_spread() -> None:
    pairs = [(1.1, 1.0), (0.7, 0.6), (0.3, 0.2)]
    differences = [a - b for a, b in pairs]
    assert len(set(differences)) > 1
    assert not estimate(differences, magnitude=1.1).spread
    assert estimate(differences, magnitude=1.1).sd == 0
    assert not estimate([a - a * (1 + 2**-53) for a, _ in pairs], magnitude=1.1).spread


@pytest.mark.parametrize("differences", [[], [1.0]])
def test_fewer_than_two_pairs_say_nothing(differences: list[float]) -> None:
    found = estimate(differences)
    assert (found.n, found.sd, found.interval, found.p) == (len(differences), None, None, None)


def test_mean_and_deviation_lose_no_digits_far_from_zero() -> None:
    values = [1e9 + 1, 1e9 + 2, 1e9 + 3]
    assert (mean(values), deviation(values)) == (1e9 + 2, 1.0)
    assert deviation([1.0]) is None


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=2, max_size=9))
@example([0.0, 2.8296303612112754e307])  # a finite deviation, whose twelvefold is none
def test_no_finite_number_is_too_large_or_too_small(values: list[float]) -> None:
    found = estimate(values)
    numbers = [found.mean, found.sd, *(found.interval or ())]
    assert all(number is not None and math.isfinite(number) for number in numbers)
    assert found.p is None or 0 <= found.p <= 1
    assert math.isfinite(total(values))
    with mpmath.workdps(50):
        exact = [mpmath.mpf(value) for value in values]
        centre = mpmath.fsum(exact) / len(exact)
        spread = mpmath.sqrt(mpmath.fsum((x - centre) ** 2 for x in exact) / (len(exact) - 1))
    largest = max(map(abs, values))
    assert mean(values) == pytest.approx(float(centre), rel=1e-12, abs=largest * 1e-15)
    # where the mean is rounded, so are what is left of the values
    expected = float(spread) if spread < sys.float_info.max else sys.float_info.max
    assert deviation(values) == pytest.approx(expected, rel=1e-9, abs=largest * 1e-14)


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1.0, 1e154, 1e200, 1e300])
def test_the_estimate_is_the_same_at_every_scale(scale: float) -> None:
    differences = [1.0, 1.5, 2.5, 1.25, 0.5]
    found, plain = estimate([scale * value for value in differences]), estimate(differences)
    assert found.p == pytest.approx(plain.p, rel=1e-9)
    assert (found.sd or 0) / scale == pytest.approx(plain.sd, rel=1e-9)
    assert [side / scale for side in found.interval or ()] == pytest.approx(plain.interval, rel=1e-9)


# ---------------------------------------------------------------- exact tests

SMALL = st.lists(st.integers(0, 6).map(float) | st.floats(-3, 3), min_size=1, max_size=6)


@given(SMALL, SMALL)
def test_the_rank_sum_is_the_permutation_test_of_ranks(a: list[float], b: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    ranks = stats.rankdata([*a, *b])
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(a))]
    expected = len(a) * (len(a) + len(b) + 1) / 2
    far = sum(abs(s - expected) >= abs(sum(ranks[: len(a)]) - expected) - 1e-9 for s in sums)
    assert rank_sum(a, b) == pytest.approx(far / len(sums), rel=1e-12)
    assert rank_sum(b, a) == pytest.approx(rank_sum(a, b), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(2, 30))
def test_without_ties_the_rank_sum_is_that_of_scipy(seed: int, n: int, m: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(seed)
    a, b = [*draw.normal(0, 1, n)], [*draw.normal(0.5, 1, m)]
    assert rank_sum(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue, rel=1e-9)


def test_five_against_five_that_do_not_overlap_have_p_0_008() -> None:
    assert rank_sum([8.0] * 5, [1.0] * 5) == pytest.approx(2 / 252)
    assert rank_sum([8.0] * 4 + [7.0], [1.0] * 5) == pytest.approx(2 / 252)
    assert rank_sum([8.0] * 4 + [7.0], [8.0] * 5) == 1
    assert rank_sum([0.1 + 0.2, 0.3], [0.3, 0.3], rounding=1e-15) == 1


@given(st.integers(0, 12), st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_fishers_test_is_that_of_scipy(hits_a: int, runs_a: int, hits_b: int, runs_b: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    hits_a, hits_b = min(hits_a, runs_a), min(hits_b, runs_b)
    p = fisher(hits_a, runs_a, hits_b, runs_b)
    expected = stats.fisher_exact([[hits_a, runs_a - hits_a], [hits_b, runs_b - hits_b]]).pvalue
    assert p == pytest.approx(expected, rel=1e-9)
    assert fisher(hits_b, runs_b, hits_a, runs_a) == p
    hits = hits_a + hits_b
    every = [fisher(k, runs_a, hits - k, runs_b) for k in range(max(0, hits - runs_b), min(hits, runs_a) + 1)]
    assert least_fisher(hits, runs_a, runs_b) == min(every) <= p


def test_exact_tests_err_no_more_often_than_they_say() -> None:
    draw, trials = np.random.default_rng(2), 3000
    counts = draw.binomial(8, 0.4, (trials, 2))
    ps = [fisher(int(a), 8, int(b), 8) for a, b in counts]
    ranks = [rank_sum([*row[:5]], [*row[5:]]) for row in draw.integers(0, 5, (trials, 10)).astype(float)]
    for found in (ps, ranks):
        for level in (0.01, 0.05, 0.2):
            assert np.mean(np.array(found) <= level) <= level + 4.5 * math.sqrt(level * (1 - level) / trials)


PS = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(PS)
def test_holm_raises_every_p_keeps_their_order_and_stays_within_bonferroni(ps: list[float]) -> None:
    adjusted = [p for p in holm([*ps]) if p is not None]
    assert len(adjusted) == len(ps)
    assert all(p <= a <= min(1, len(ps) * p) + 1e-12 for p, a in zip(ps, adjusted, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    ranked = [adjusted[i] for i in order]
    assert ranked == sorted(ranked)
    assert adjusted[order[0]] == pytest.approx(min(1, len(ps) * ps[order[0]]))


@given(PS, st.floats(0, 1), st.integers(0, 11))
def test_holm_is_monotone_and_more_tests_never_help(ps: list[float], p: float, at: int) -> None:
    at %= len(ps)
    before, more = holm([*ps]), holm([*ps, p])
    assert all(a <= b + 1e-12 for a, b in zip(before, more, strict=False) if a is not None and b is not None)
    lower = holm([min(p, q) if i == at else q for i, q in enumerate(ps)])
    assert all(a <= b + 1e-12 for a, b in zip(lower, before, strict=True) if a is not None and b is not None)


def test_holm_of_an_example_and_of_tests_that_were_not_made() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == []


def test_holm_keeps_one_false_claim_among_many_as_rare_as_the_level() -> None:
    draw, trials = np.random.default_rng(1), 3000
    claims = sum(any((p or 0) < 0.05 for p in holm([*row])) for row in draw.uniform(size=(trials, 8)))
    assert claims / trials <= 0.05 + 4.5 * math.sqrt(0.05 * 0.95 / trials)
