"""The statistics of a study against scipy, brute force and simulated studies: t, max-t, Holm, ranks and rates."""

from __future__ import annotations

import itertools
import math
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from gantricks.study.statistics import (
    LEVEL,
    Estimate,
    Family,
    _grubbs,
    deviation,
    estimate,
    fisher,
    holm,
    holm_levels,
    least_fisher,
    mean,
    normal_limit,
    outside,
    rank_sum,
    t_limit,
    total,
)

NONE = math.nan


def family(*rows: list[float], paired: bool = False) -> Family:
    """Comparisons of every row with the first. Rows may have different lengths."""
    values = np.array([*itertools.zip_longest(*rows, fillvalue=NONE)], float).T
    k = len(rows) - 1
    return Family(values, np.column_stack([-np.ones(k), np.eye(k)]), paired)


def one(control: list[float], arm: list[float], paired: bool = False) -> Estimate:
    """One comparison, by itself."""
    (found,) = estimate(family(control, arm, paired=paired), "none")
    return found


def decides(found: Estimate) -> bool:
    """Whether the interval excludes 0."""
    return found.interval is not None and not found.interval[0] <= 0 <= found.interval[1]


# ---------------------------------------------------------------- one contrast


@given(st.floats(0.001, 0.5), st.floats(1, 300))
def test_the_limit_of_t_is_where_its_tails_have_the_level(level: float, freedom: float) -> None:
    assert outside(t_limit(level, freedom), freedom) == pytest.approx(level, rel=1e-6)
    assert t_limit(level, freedom) == pytest.approx(stats.t.isf(level / 2, freedom), rel=1e-6)


ROUNDED = st.floats(-1e3, 1e3).map(lambda x: round(x, 3))


@given(st.lists(ROUNDED, min_size=3, max_size=20), st.lists(ROUNDED, min_size=3, max_size=20))
def test_independent_runs_are_compared_by_welchs_test(a: list[float], b: list[float]) -> None:
    found = one(a, b)
    assert found.n == min(len(a), len(b))
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a), abs=1e-9)
    if found.spread:
        expected = stats.ttest_ind(b, a, equal_var=False)
        ends = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.freedom == pytest.approx(expected.df)
        assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-6, abs=1e-9)


@given(st.lists(st.tuples(ROUNDED, ROUNDED), min_size=3, max_size=20))
def test_pairs_are_compared_by_students_test(pairs: list[tuple[float, float]]) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    found = one(a, b, paired=True)
    assert found.n == len(pairs)
    if found.spread:
        expected = stats.ttest_rel(b, a)
        ends = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-6, abs=1e-9)


def test_blocks_without_all_figures_are_left_out_of_pairs_and_only_of_pairs() -> None:
    a, b = [1.0, 2.0, NONE, 4.0, 5.5], [2.0, NONE, 9.0, 5.5, 6.0]
    paired, independent = one(a, b, paired=True), one(a, b)
    assert (paired.n, paired.difference) == (3, pytest.approx(np.mean([1.0, 1.5, 0.5])))
    assert (independent.n, independent.difference) == (4, pytest.approx(np.mean([2, 9, 5.5, 6]) - 3.125))


def test_an_interaction_is_the_difference_of_differences() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (4, 9)) + np.array([[3.0], [1.0], [0.5], [0.25]])
    weights = np.array([[1.0, -1.0, -1.0, 1.0]])
    for paired in (True, False):
        (found,) = estimate(Family(rows, weights, paired), "none")
        sums = weights @ rows
        assert found.difference == pytest.approx(sums.mean())
        error = sums.std(ddof=1) if paired else math.sqrt(rows.var(axis=1, ddof=1).sum())
        assert found.error == pytest.approx(error / 3)


@pytest.mark.parametrize("n", [2, 5, 9])
@pytest.mark.parametrize("paired", [True, False])
def test_figures_that_are_the_same_but_for_one_have_no_spread_to_judge_by(n: int, paired: bool) -> None:
    found = one([0.5] * n, [1.0] * n, paired)
    assert (found.difference, found.error, found.interval, found.spread) == (0.5, None, None, False)
    assert found.p == rank_sum([0.5] * n, [1.0] * n)
    found = one([0.0] * (n + 1), [7.0] * n + [6.0], paired)
    assert (found.interval, found.spread) == (None, False)
    assert one([0.0] * (n + 2), [7.0] * n + [6.0, 6.5], paired).spread


def test_rounding_is_no_spread() -> None:
    a, b = [1.1, 0.7, 0.3], [1.0, 0.6, 0.2]
    assert len({x - y for x, y in zip(a, b, strict=True)}) > 1
    assert not one(a, b, paired=True).spread
    assert one(a, b).spread


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_runs_say_nothing(values: list[float]) -> None:
    found = estimate(family([1.0, 2.0, 4.0], values))[0]
    assert (found.n, found.error, found.p, found.adjusted, found.interval) == (len(values), None, None, None, None)


@pytest.mark.parametrize("scale", [1e-250, 1e-160, 1e-30, 1e-9, 1.0, 1e50, 1e154, 1e200, 1e300])
@pytest.mark.parametrize("paired", [True, False])
def test_the_estimate_is_the_same_at_every_scale(scale: float, paired: bool) -> None:
    a, b = [1.0, 1.5, 2.5, 1.25, 0.5], [2.0, 1.75, 3.5, 3.25, 1.0]
    rows = [a, b, [3.0, 2.0, 1.0, 2.5, 0.25], [5.0, 1.0, 2.5, 7.0, 2.0]]
    plain = estimate(family(*rows, paired=paired), draws=500)[0]
    found = estimate(family(*([scale * v for v in row] for row in rows), paired=paired), draws=500)[0]
    assert (found.p, found.adjusted) == (pytest.approx(plain.p, rel=1e-9), pytest.approx(plain.adjusted, rel=1e-9))
    assert [side / scale for side in found.interval or ()] == pytest.approx(plain.interval, rel=1e-9)


# ---------------------------------------------------------------- families


def drawn(seed: int, k: int, n: int, paired: bool) -> Family:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, rng.uniform(0.2, 2, (k + 1, 1)), (k + 1, n)) + rng.normal(0, 1, (k + 1, 1))
    return family(*(rows + paired * rng.normal(0, 1, n)).tolist(), paired=paired)


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 6),
    st.integers(2, 8),
    st.booleans(),
    st.sampled_from(["max-t", "holm", "none"]),
)
def test_p_is_below_the_level_exactly_where_the_interval_excludes_no_effect(
    seed: int, k: int, n: int, paired: bool, adjust: str
) -> None:
    found = estimate(drawn(seed, k, n, paired), adjust, draws=400)
    for each in found:
        assert decides(each) == (each.adjusted < LEVEL)
        assert each.p <= each.adjusted <= 1
    # p and limits have the same order, and the interval is around the estimate
    for a, b in itertools.combinations(found, 2):
        if a.freedom == b.freedom and abs(a.difference / a.error) > abs(b.difference / b.error):
            assert a.adjusted <= b.adjusted + (0.05 if adjust == "holm" else 0)
    assert all(sum(each.interval) / 2 == pytest.approx(each.difference, abs=1e-9) for each in found)


def test_the_same_study_has_the_same_results() -> None:
    made = drawn(1, 5, 6, False)
    assert estimate(made) == estimate(made)
    again = estimate(made, seed=1)
    assert [e.adjusted for e in again] == pytest.approx([e.adjusted for e in estimate(made)], abs=0.02)


@pytest.mark.parametrize(("k", "n"), [(3, 300), (12, 100)])
def test_with_equal_variances_the_limit_is_that_of_dunnett(k: int, n: int) -> None:
    rows = np.random.default_rng(3).normal(0, 1, (k + 1, n))
    found = stats.dunnett(*rows[1:], control=rows[0], rng=np.random.default_rng(0))
    ends = found.confidence_interval(0.95)
    pooled = math.sqrt(rows.var(axis=1, ddof=1).mean())
    limit = float((ends.high - ends.low)[0]) / 2 / (pooled * math.sqrt(2 / n))
    ours = normal_limit([n] * (k + 1), False, 2.0 * (n - 1), draws=40_000)
    assert ours == pytest.approx(limit, rel=0.015)
    adjusted = [each.adjusted for each in estimate(family(*rows.tolist()))]
    # Welch's errors in place of the pooled one move each p a little
    assert adjusted == pytest.approx([*found.pvalue], abs=0.06)


@pytest.mark.parametrize("runs", [(12, 4, 4, 4, 4), (5, 5, 5), (40, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8)])
def test_the_limit_of_welchs_t_is_that_of_simulated_studies(runs: tuple[int, ...]) -> None:
    rng, trials = np.random.default_rng(5), 20_000
    control = rng.normal(0, 1, (trials, runs[0]))
    tests = [stats.ttest_ind(rng.normal(0, 1, (trials, n)), control, axis=1, equal_var=False) for n in runs[1:]]
    # the share of studies in which any p is below that of the limit, for the freedom of any one test
    freedom = 7.0
    tail = outside(normal_limit(runs, False, freedom, draws=40_000), freedom)
    false = np.mean(np.min([test.pvalue for test in tests], axis=0) < tail)
    assert false == pytest.approx(LEVEL, abs=0.008)


@pytest.mark.parametrize("n", [4, 8])
def test_the_limit_of_pairs_is_that_of_simulated_studies(n: int) -> None:
    rng, trials, k = np.random.default_rng(6), 20_000, 6
    control = rng.normal(0, 1, (trials, n))
    tests = [stats.ttest_rel(rng.normal(0, 1, (trials, n)), control, axis=1) for _ in range(k)]
    limit = normal_limit([n] * (k + 1), True, n - 1, draws=40_000)
    false = np.mean(np.max([np.abs(test.statistic) for test in tests], axis=0) > limit)
    assert false == pytest.approx(LEVEL, abs=0.008)


@pytest.mark.parametrize("paired", [True, False])
def test_intervals_hold_the_true_effects_all_at_once(paired: bool) -> None:
    rng, trials, k, n = np.random.default_rng(7), 300, 4, 7
    effects = np.array([0.0, 0.5, -2.0, 3.0, 0.0])[:, None]
    holding = 0
    for _ in range(trials):
        rows = effects + rng.normal(0, [[0.5], [1.0], [0.2], [2.0], [1.0]], (k + 1, n)) + paired * rng.normal(0, 3, n)
        found = estimate(family(*rows.tolist(), paired=paired), draws=600)
        holding += all(e.interval[0] <= t <= e.interval[1] for e, t in zip(found, effects[1:, 0], strict=True))
    assert holding / trials >= 0.95 - 3.4 * math.sqrt(0.05 * 0.95 / trials)


def test_what_the_comparisons_share_is_not_paid_for_twice() -> None:
    """With one control the limit is below that of as many independent tests."""
    k, freedom = 20, 200.0
    shared = normal_limit([100] * (k + 1), False, freedom, draws=40_000)
    assert t_limit(LEVEL, freedom) < shared < 0.98 * t_limit(LEVEL / k, freedom)


def test_pairs_are_as_precise_as_what_their_blocks_do_not_share() -> None:
    rng = np.random.default_rng(3)
    blocks, noise = rng.normal(0, 100, 6), rng.normal(0, 0.1, (2, 6))
    rows = [(blocks + noise[0]).tolist(), (blocks + noise[1] + 1).tolist()]
    paired, independent = (estimate(family(*rows, paired=paired))[0] for paired in (True, False))
    assert decides(paired)
    assert not decides(independent)
    assert paired.error < 0.01 * independent.error


def test_tests_of_ranks_count_in_the_family() -> None:
    steady = [8.0] * 10
    rng = np.random.default_rng(0)
    spread = rng.normal(8, 1, 10).tolist()
    alone = estimate(family(steady, [1.0] * 10))[0]
    among = estimate(family(steady, [1.0] * 10, *[spread] * 5))[0]
    assert alone.interval is among.interval is None
    assert alone.p == among.p == pytest.approx(2 / math.comb(20, 10))
    assert alone.p <= alone.adjusted < among.adjusted < LEVEL


def test_the_variance_of_each_variant_is_told_from_what_blocks_share() -> None:
    rng, spreads = np.random.default_rng(1), np.array([0.5, 1.0, 2.0, 4.0])
    values = rng.normal(0, 1, (4, 20_000)) * spreads[:, None] + rng.normal(0, 10, 20_000)
    assert np.sqrt(_grubbs(values)) == pytest.approx(spreads, rel=0.05)
    few = values[:, :5]
    assert (_grubbs(np.concatenate([few, few * 1e-6, few * 1e6])) > 0).all()
    two = _grubbs(values[:2])
    assert two == pytest.approx([(values[0] - values[1]).var(ddof=1) / 2] * 2)


def test_mean_and_deviation_lose_no_digits_far_from_zero() -> None:
    values = [1e9 + 1, 1e9 + 2, 1e9 + 3]
    assert (mean(values), deviation(values)) == (1e9 + 2, 1.0)
    assert deviation([1.0]) is None


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FINITE, min_size=2, max_size=9))
@example([0.0, 2.8296303612112754e307])  # a finite deviation, whose twelvefold is none
def test_no_finite_number_is_too_large_or_too_small(values: list[float]) -> None:
    found = one([0.0] * len(values), values, paired=True)
    numbers = [found.difference, *(found.interval or ())]
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


# ---------------------------------------------------------------- exact tests

SMALL = st.lists(st.integers(0, 6).map(float) | st.floats(-3, 3), min_size=1, max_size=6)


@given(SMALL, SMALL)
def test_the_rank_sum_is_the_permutation_test_of_ranks(a: list[float], b: list[float]) -> None:
    ranks = stats.rankdata([*a, *b])
    sums = [sum(chosen) for chosen in itertools.combinations(ranks, len(a))]
    expected = len(a) * (len(a) + len(b) + 1) / 2
    far = sum(abs(s - expected) >= abs(sum(ranks[: len(a)]) - expected) - 1e-9 for s in sums)
    assert rank_sum(a, b) == pytest.approx(far / len(sums), rel=1e-12)
    assert rank_sum(b, a) == pytest.approx(rank_sum(a, b), rel=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(2, 30))
def test_without_ties_the_rank_sum_is_that_of_scipy(seed: int, n: int, m: int) -> None:
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


@given(PS)
def test_levels_of_holm_are_those_at_which_it_decides(ps: list[float]) -> None:
    levels, adjusted = holm_levels([*ps]), holm([*ps])
    assert [p < level for p, level in zip(ps, levels, strict=True)] == [(p or 0) < LEVEL for p in adjusted]


def test_holm_of_an_example_and_of_tests_that_were_not_made() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]
    assert holm([]) == []


def test_holm_keeps_one_false_claim_among_many_as_rare_as_the_level() -> None:
    draw, trials = np.random.default_rng(1), 3000
    claims = sum(any((p or 0) < 0.05 for p in holm([*row])) for row in draw.uniform(size=(trials, 8)))
    assert claims / trials <= 0.05 + 4.5 * math.sqrt(0.05 * 0.95 / trials)
