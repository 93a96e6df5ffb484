"""Student's t against other ways to compute it, intervals that cover, Holm's correction."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks.statistics import deviation, estimate, holm, mean, t_quantile, t_within

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
    assert t_within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-12)
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
    if len(set(differences)) > 1:
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
def test_equal_differences_are_judged_by_their_sign_alone(n: int) -> None:
    found = estimate([0.5] * n)
    assert (found.mean, found.sd, found.interval, found.p) == (0.5, 0, None, 2.0 ** (1 - n))
    assert estimate([0.0] * n).p == 1


def test_rounding_is_no_spread() -> None:
    pairs = [(1.1, 1.0), (0.7, 0.6), (0.3, 0.2)]
    differences = [a - b for a, b in pairs]
    assert len(set(differences)) > 1
    assert estimate(differences, magnitude=1.1).p == 2.0**-2
    assert estimate([a - a * (1 + 2**-53) for a, _ in pairs], magnitude=1.1).p == 1


@pytest.mark.parametrize("differences", [[], [1.0]])
def test_fewer_than_two_pairs_say_nothing(differences: list[float]) -> None:
    found = estimate(differences)
    assert (found.n, found.sd, found.interval, found.p) == (len(differences), None, None, None)


def test_mean_and_deviation_lose_no_digits_far_from_zero() -> None:
    values = [1e9 + 1, 1e9 + 2, 1e9 + 3]
    assert (mean(values), deviation(values)) == (1e9 + 2, 1.0)
    assert deviation([1.0]) is None


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
